// Pipelining: two timetables of network calls, from the flights of running engines, on one clock.
// `callTimes` says what figures.engine.call_times says; tests/test_figures.py compares them.
import {h, light, onLight, player, plural, slider} from "./core.js";

export function callTimes(log, extra) {            // log: [call][row] frame or null; extra: cost of one more row -> ends of calls, {frame: [start, end]}
  let now = 0;
  const ends = [], frames = {};
  for (const call of log) {
    const busy = call.filter(frame => frame !== null), start = now;
    now += 1 + extra * (busy.length - 1);
    ends.push(now);
    call.forEach((frame, row) => {
      if (frame === null) return;
      frames[frame] ??= [start, null];
      if (row === call.length - 1) frames[frame][1] = now;
    });
  }
  return {ends, frames};
}

const FILL = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"], INK = ["#fff", "#111", "#111", "#111", "#111", "#111"];

export function pipeline(root, data) {
  const names = Object.keys(data.logs), rows = data.timesteps.length, ticks = 120;
  let lit = null, times, whole;
  const extra = slider("one more row in a call costs", {min: 0, max: 100, step: 5, value: 100 * data.extra, shown: v => `${v} %`, change: load});
  const boxes = Object.fromEntries(names.map(name => [name, h("div", {})]));
  const table = h("table", {}), say = h("p", {class: "say", "aria-live": "polite"});
  const play = player(root, {length: ticks + 1, show: draw, text: "time", said: tick => `time ${(whole * tick / ticks).toFixed(1)}`, rate: 12, start: data.at ?? ticks});
  root.append(h("div", {class: "bar"}, extra.el), play.el, ...names.map(name => boxes[name]), table, say);

  function load() {
    times = Object.fromEntries(names.map(name => [name, callTimes(data.logs[name], extra.value / 100)]));
    whole = Math.max(...names.map(name => times[name].ends.at(-1)));
    play.go(play.at);
  }
  function timetable(name, now) {
    const {ends} = times[name], high = 30, left = 76, width = Math.max(280, boxes[name].clientWidth), unit = (width - left - 4) / whole;
    const svg = h("svg:svg", {viewBox: `0 0 ${width} ${rows * high + 4}`, width, role: "img", "aria-label": `${name}: which frame each row works on in each network call`});
    data.timesteps.forEach((t, k) => svg.append(h("svg:text", {x: 0, y: k * high + 19, class: "faint"}, `row ${k}, t ${t}`), h("svg:line", {x1: left, x2: width - 4, y1: (k + 1) * high, y2: (k + 1) * high, stroke: "var(--line)"})));
    data.logs[name].forEach((call, c) => call.forEach((frame, k) => {
      const from = c ? ends[c - 1] : 0;
      if (frame === null || from >= now) return;
      const wide = (Math.min(ends[c], now) - from) * unit, on = lit === frame;
      const box = h("svg:g", {class: "work", "data-frame": frame}, h("svg:rect", {x: left + from * unit + .7, y: k * high + 3, width: Math.max(0, wide - 1.4), height: high - 6, rx: 3, fill: FILL[frame % 6], stroke: on ? "var(--ink)" : "none", "stroke-width": 2.5, opacity: lit === null || on ? 1 : .4}),
        wide > 11 && h("svg:text", {x: left + from * unit + wide / 2, y: k * high + 19, "text-anchor": "middle", style: `fill: ${INK[frame % 6]}; font-weight: 600`}, String(frame)));
      box.onpointerenter = box.onpointerdown = () => light(frame + data.warmup);
      svg.append(box);
    }));
    svg.append(h("svg:line", {x1: left + now * unit, x2: left + now * unit, y1: 0, y2: rows * high, stroke: "var(--orange)", "stroke-width": 2}));
    return svg;
  }
  function count(name, now) {
    const {ends, frames} = times[name], done = Object.values(frames).filter(([, end]) => end !== null && end <= now);
    const all = Object.values(frames).filter(([, end]) => end !== null), mean = all.reduce((sum, [start, end]) => sum + end - start, 0) / all.length;
    const last = all.map(([, end]) => end).sort((a, b) => a - b), gap = (last[last.length - rows] - last[0]) / (last.length - rows);      // while all rows are busy
    return [name, ends.filter(end => end <= now).length, done.length, mean, 1 / gap];
  }
  function draw(tick) {
    if (!times) return;
    const now = whole * tick / ticks, counted = names.map(name => count(name, now));
    for (const name of names) boxes[name].replaceChildren(h("p", {class: "head"}, name), timetable(name, now));
    const told = ["network calls so far", "frames done", "latency of a frame", "frames per unit of time"];
    table.replaceChildren(h("tr", {}, h("th"), names.map(name => h("th", {}, name))), ...told.map((text, n) => h("tr", {}, h("td", {}, text), counted.map(row => h("td", {}, n < 2 ? String(row[n + 1]) : row[n + 1].toFixed(2))))));
    const [a, b] = counted;
    say.replaceChildren(`Time is counted in network calls of one row. `, b ? h("b", {}, `${(a[4] / b[4]).toFixed(2)} times the frames of the sequential twin`) : "", b ? `, at ${(a[3] / b[3]).toFixed(2)} times its latency. ` : "",
      extra.value === 0 ? "Rows are free: a GPU with room to spare." : extra.value === 100 ? "Each row costs as much as a call of its own: a busy CPU gains nothing." : "");
    root.dataset.shows = `${extra.value} ${tick}`;
  }
  new ResizeObserver(() => times && draw(play.at)).observe(root);
  onLight(root, clip => { lit = clip === null ? null : clip - data.warmup; draw(play.at); });
  load();
}

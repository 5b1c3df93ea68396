// The age of what you see: a mailbox of one slot against a queue, from recorded runs (figures.live.record_ages).
import {h, player, plot, slider, stroke} from "./core.js";

export function ages(root, data) {
  const works = Object.keys(data.runs), names = Object.keys(data.runs[works[0]]), ticks = 200;
  const work = slider("the model takes", {min: 0, max: works.length - 1, value: Math.max(0, works.indexOf(String(data.work))), shown: n => `${(1000 * works[n]).toFixed(0)} ms`, change: () => load()});
  const looks = {[names[0]]: ["--blue", null], [names[1]]: ["--orange", [7, 4]]};
  const dials = h("div", {class: "panels dials"}), box = h("div", {class: "plot"}), say = h("p", {class: "say", "aria-live": "polite"});
  const play = player(root, {length: ticks + 1, show: draw, text: "time", said: tick => `${(data.seconds * tick / ticks).toFixed(1)} s`, rate: 20, start: data.at ?? ticks});
  root.append(h("div", {class: "bar"}, h("span", {class: "faint"}, `camera: ${data.fps} frames/s`), work.el), play.el, dials, box, h("div", {class: "key"}, "a hand goes round once in 2 s", names.map(name =>
    h("span", {}, stroke(...looks[name]), name))), say);
  let runs, drawn = null;

  function shown(name, now) {                        // the last picture that was up by `now`: [number of the frame, age] or null
    const last = runs[name].findLast(([, at]) => at <= now);
    return last ? {frame: last[0], age: now - last[0] / data.fps} : null;
  }
  function series(until) {
    const xs = Array.from({length: ticks + 1}, (_, n) => n * data.seconds / ticks);
    return [xs, ...names.map(name => xs.map(x => x <= until + 1e-9 ? shown(name, x)?.age ?? null : null))];
  }
  function dial(title, seconds, colour, note) {      // a clock hand goes round once in two seconds
    const angle = Math.PI * seconds, x = 50 + 34 * Math.sin(angle), y = 50 - 34 * Math.cos(angle);
    return h("svg:svg", {viewBox: "0 0 100 122", width: 104, role: "img", "aria-label": `${title}: ${note}`}, h("svg:circle", {cx: 50, cy: 50, r: 42, fill: "var(--soft)", stroke: colour, "stroke-width": 3}),
      [0, 1, 2, 3].map(q => h("svg:line", {x1: 50 + 36 * Math.sin(q * Math.PI / 2), y1: 50 - 36 * Math.cos(q * Math.PI / 2), x2: 50 + 42 * Math.sin(q * Math.PI / 2), y2: 50 - 42 * Math.cos(q * Math.PI / 2), stroke: "var(--faint)"})),
      seconds === null ? null : h("svg:line", {x1: 50, y1: 50, x2: x, y2: y, stroke: colour, "stroke-width": 4, "stroke-linecap": "round", class: "hand"}),
      h("svg:text", {x: 50, y: 106, "text-anchor": "middle", style: "font-weight: 600"}, title), h("svg:text", {x: 50, y: 119, "text-anchor": "middle", class: "faint"}, note));
  }
  function load() { runs = data.runs[works[work.value]]; play.go(play.at); }
  function draw(tick) {
    if (!runs) return;
    const now = data.seconds * tick / ticks, seen = names.map(name => shown(name, now));
    dials.replaceChildren(dial("the camera", now, "var(--ink)", `frame ${Math.floor(now * data.fps)}`), ...names.map((name, i) =>
      dial(name, seen[i] ? seen[i].frame / data.fps : null, `var(${looks[name][0]})`, seen[i] ? `frame ${seen[i].frame}` : "nothing so far")));
    const columns = series(now);
    if (drawn) drawn.set(columns);
    else drawn = plot(box, {x: "seconds since the start", y: "age of the picture, s", height: 200, data: columns, range: {x: [0, data.seconds], y: (_, low, high) => [0, Math.max(.5, high * 1.1)]},
      series: names.map(text => ({text, colour: looks[text][0], dash: looks[text][1] ?? undefined, width: 2.5}))});
    const text = names.map((name, i) => seen[i] ? `${name}: what you see is ${seen[i].age.toFixed(2)} s old` : `${name}: nothing to see`).join("; ");
    box.setAttribute("role", "img"); box.setAttribute("aria-label", `Age of the picture over time. After ${now.toFixed(1)} s, ${text}.`);
    const counts = names.map(name => `${name} showed ${runs[name].filter(([, at]) => at <= now).length} pictures`).join(", ");
    say.replaceChildren(h("b", {}, `After ${now.toFixed(1)} s. `), `${text}. Of ${Math.floor(now * data.fps)} frames ${counts}.`);
    root.dataset.shows = `${works[work.value]} ${tick}`;
  }
  load();
}

// The ring cache, drawn from the views that a running engine handed to its network (figures.engine.record_calls).
import {choice, clamp, h, light, onLight, player, plural} from "./core.js";

const TAU = 2 * Math.PI;

export function rowCard(row, k, {window, warmup, lit, title, pick}) {   // one denoising row: warm slots, the ring, who is where
  const ring = window - warmup, cx = 200, cy = 116, radius = 60, r = clamp(Math.PI * radius / ring * .8, 7, 17);
  const most = row?.weights && Math.max(...row.weights);          // where attention was watched: the stronger, the more
  const svg = h("svg:svg", {viewBox: "0 0 300 212", width: 266, role: "img"});
  const sees = row ? row.visible.filter(Boolean).length : 0;
  svg.setAttribute("aria-label", row ? `row ${k}, ${title}: frame ${row.frame} writes slot ${row.slot} and sees ${plural(sees, "slot")}` : `row ${k}, ${title}: idle`);
  svg.append(h("svg:text", {x: 2, y: 12, style: "font-weight: 600"}, `row ${k}, ${title}`),
    h("svg:text", {x: 298, y: 12, "text-anchor": "end", class: "faint"}, row ? row.frame === null ? "zeros, no frame" : `streamed frame ${row.frame}` : "idle: not run"));
  const slot = (j, x, y) => {
    const seen = row?.visible[j], holds = row?.holds[j], empty = holds === null || holds === undefined, mine = row && j === row.slot;
    const clip = empty || holds === "zeros" ? null : holds + warmup, bad = seen && (empty || holds === "zeros");
    const shape = h("svg:circle", {cx: x, cy: y, r: j < warmup ? Math.min(r, 14) : r, fill: bad ? "var(--orange)" : seen ? lit !== null && clip === lit ? "var(--green)" : j < warmup && !most ? "var(--pale)" : "var(--blue)" : "none",
      "fill-opacity": most ? .12 + .88 * row.weights[j] / most : null, stroke: mine ? "var(--orange)" : "var(--faint)", "stroke-width": mine ? 3.5 : 1, "stroke-dasharray": seen ? null : "3 3", class: "slot", "data-slot": j, "data-clip": clip ?? ""});
    const strong = bad || seen && !(most && row.weights[j] < .6 * most) && (j >= warmup || most || lit !== null && clip === lit);
    const text = h("svg:text", {x, y: y + 4, "text-anchor": "middle", style: strong ? "fill: var(--on); font-weight: 600" : "", class: seen ? "" : "faint"}, bad ? "0!" : empty ? "" : String(holds));
    const place = h("svg:g", {style: clip === null ? "" : "cursor: pointer"}, shape, text);
    if (clip !== null) place.onpointerenter = place.onpointerdown = () => pick(clip);
    return place;
  };
  const columns = warmup > 8 ? 3 : 2, perColumn = Math.ceil(warmup / columns);
  if (warmup) svg.append(h("svg:text", {x: 2, y: 36, class: "faint"}, "warm slots"));
  for (let j = 0; j < warmup; j++) {
    const x = 22 + 38 * (j % columns), y = 58 + Math.min(34, 124 / Math.max(1, perColumn)) * Math.floor(j / columns);
    svg.append(slot(j, x, y));
  }
  svg.append(h("svg:circle", {cx, cy, r: radius, fill: "none", stroke: "var(--line)", "stroke-width": 2}));
  for (let j = warmup; j < window; j++) {
    const angle = TAU * (j - warmup) / ring - TAU / 4, x = cx + radius * Math.cos(angle), y = cy + radius * Math.sin(angle);
    svg.append(slot(j, x, y));
    const far = radius + r + 8;
    if (row?.visible[j]) svg.append(h("svg:text", {x: cx + (far + 5) * Math.cos(angle), y: cy + far * Math.sin(angle) + 4, "text-anchor": "middle", class: "faint", style: "font-size: 10px"}, `p${row.position[j]}`));
  }
  if (row) {
    const turn = 360 * (row.slot - warmup) / ring;
    svg.append(h("svg:g", {transform: `rotate(${turn} ${cx} ${cy})`}, h("svg:path", {d: `M${cx} ${cy + 8} V${cy - radius + r + 9} m-5 7 l5 -7 l5 7`, fill: "none", stroke: "var(--orange)", "stroke-width": 2.5})));
  }
  return svg;
}

function seenMap({mask, warmup, window}, steps, at, lit, pick) {       // rows: frames; what each saw when row 0 worked on it
  const n = mask.length, size = 300 / n, svg = h("svg:svg", {viewBox: "0 0 336 330", width: 296, role: "img", class: "seen", style: "touch-action: pan-y"});
  const x0 = 30, y0 = 16, runs = (row, test) => {
    const found = [];
    for (let j = 0; j < n; j++) if (test(row, j)) { const last = found.at(-1); if (last && last[1] === j) last[1]++; else found.push([j, j + 1]); }
    return found;
  };
  const bars = (i, found, colour) => found.map(([a, b]) => h("svg:rect", {x: x0 + a * size, y: y0 + i * size, width: (b - a) * size, height: size, fill: colour}));
  svg.append(h("svg:rect", {x: x0, y: y0, width: 300, height: 300, fill: "var(--soft)"}));
  mask.forEach((row, i) => svg.append(...bars(i, runs(row, (row, j) => row[j] === "1"), "var(--pale)")));
  steps.forEach((rows, s) => {
    const row = rows[0];
    if (s > at || !row || row.frame === null) return;
    const seen = new Set(row.holds.map((frame, j) => row.visible[j] && typeof frame === "number" ? frame + warmup : -1));
    svg.append(...bars(row.frame + warmup, runs(null, (_, j) => seen.has(j)), "var(--blue)"));
  });
  for (let i = 0; i < warmup; i++) svg.append(...bars(i, [[0, warmup]], "var(--blue)"));
  steps[at].forEach((row, k) => row && row.frame !== null && svg.append(
    h("svg:rect", {x: x0, y: y0 + (row.frame + warmup) * size, width: 300, height: size, fill: "none", stroke: "var(--ink)", "stroke-width": 1.2}),
    h("svg:text", {x: x0 - 3, y: y0 + (row.frame + warmup + .5) * size + 3, "text-anchor": "end", style: "font-size: 10px"}, k === 0 ? "row 0" : "")));
  if (lit !== null && lit < n) svg.append(h("svg:rect", {class: "lit", x: x0 + lit * size - .5, y: y0, width: size + 1, height: 300, fill: "var(--green)", opacity: .75}),
    h("svg:text", {x: clamp(x0 + (lit + .5) * size, x0 + 24, x0 + 270), y: 11, "text-anchor": "middle", style: "font-weight: 600"}, `frame ${lit - warmup}`));
  svg.append(h("svg:text", {x: x0, y: 328, class: "faint"}, `${-warmup}`), h("svg:text", {x: x0 + 300, y: 328, "text-anchor": "end", class: "faint"}, `looks at frame ${n - 1 - warmup}`));
  svg.setAttribute("aria-label", "mask of all frames: allowed, and seen through the ring so far" + (lit === null ? "" : `; frame ${lit - warmup} is lit`));
  svg.onpointermove = svg.onpointerdown = event => {
    const box = svg.getBoundingClientRect(), j = Math.floor(((event.clientX - box.left) / box.width * 336 - x0) / size);
    if (j >= 0 && j < n && j !== lit) pick(j);
  };
  return svg;
}

export function ring(root, data) {
  const {window, warmup, states, modes, timesteps} = data;
  let lit = null, steps, mode;
  const kinds = [["", "this library"], [" official", "official code"]].filter(([key]) => Object.keys(modes).some(name => name.endsWith(key || name.split(" ")[0])));
  const counts = [...new Set(Object.keys(modes).map(name => name.split(" ")[0]))];
  const count = choice("denoising steps T", counts.map(n => [n, n]), {value: data.first.split(" ")[0], change: load});
  const kind = choice("bookkeeping of", kinds, {value: data.first.slice(data.first.split(" ")[0].length), change: load});
  const cards = h("div", {class: "panels cards"}), map = h("div", {}), say = h("p", {class: "say", "aria-live": "polite"});
  const bar = h("div", {class: "bar"}, count.el, kinds.length > 1 && kind.el);
  const key = h("div", {class: "key"}, [["fill: var(--pale)", "warm slot, kept for ever"], ["fill: var(--blue)", "ring slot that is seen"], ["fill: none; stroke: var(--faint); stroke-dasharray: 3 3", "not visible yet"],
    ["fill: none; stroke: var(--orange); stroke-width: 3", "written now"], ["fill: var(--green)", "the frame you point at"]].map(([style, text]) =>
    h("span", {}, h("svg:svg", {width: 16, height: 16, viewBox: "0 0 16 16"}, h("svg:circle", {cx: 8, cy: 8, r: 6, style})), text)));
  const play = player(root, {length: modes[Object.keys(modes)[0]].length, show: draw, text: "engine step", rate: 2, start: data.at ?? 0});
  root.append(bar, play.el, h("div", {class: "panels"}, cards, data.mask && map), say, key);

  function load() {
    const name = count.value + kind.value;
    mode = modes[name] ? name : count.value;
    if (!modes[name]) kind.input.value = "";
    [...kind.input.options].forEach(option => option.disabled = !modes[count.value + option.value]);
    steps = modes[mode].map(rows => rows.map(index => index < 0 ? null : states[index]));
    play.resize(steps.length);
  }
  function draw(at) {
    if (!steps) return;
    const times = timesteps[count.value] || [];
    cards.replaceChildren(...steps[at].map((row, k) => rowCard(row, k, {window, warmup, lit, pick, title: `t = ${times[k]}`})));
    if (data.mask) map.replaceChildren(h("p", {class: "head"}, "as a mask: allowed (pale), seen (dark)"), seenMap(data, steps, at, lit, pick));
    root.dataset.shows = `${mode} ${at}`;
    const first = steps[at][0], idle = steps[at].filter(row => !row).length, faulty = steps[at].filter(row => row && row.visible.some((seen, j) => seen && typeof row.holds[j] !== "number"));
    const seen = first && first.visible.filter(Boolean).length;
    say.replaceChildren(h("b", {}, `Step ${at}. `), first ? `Row 0 writes frame ${first.frame} to slot ${first.slot} at position ${first.position[first.slot]} and sees ${plural(seen, "slot")}: ${warmup} warm and ${seen - warmup} in the ring. ` : "",
      idle ? `${plural(idle, "row")} idle: no frame has come so far. ` : "", faulty.length ? h("b", {}, `${faulty.length === 1 ? "A row looks" : `${faulty.length} rows look`} at slots that no frame wrote (marked 0!).`) : "",
      lit === null ? "" : where(at));
  }
  const where = at => { const found = steps[at].flatMap((row, k) => row ? row.holds.map((frame, j) => frame + warmup === lit && typeof frame === "number" && row.visible[j] ? `row ${k} slot ${j} (p${row.position[j]})` : null).filter(Boolean) : []); return ` Frame ${lit - warmup}: ${found.length ? found.join(", ") : "in no slot"}.`; };
  const pick = clip => light(clip);
  onLight(root, clip => { lit = clip; draw(play.at); });
  load();
}

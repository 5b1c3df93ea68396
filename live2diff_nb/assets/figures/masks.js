// Masks: who may look at whom, what reaches a frame after some layers, what waits for the future.
// `temporalMask` and `reach` say what engine.masks says; tests/test_figures.py compares them on random inputs.
import {choice, clamp, h, light, onLight, plural, slider} from "./core.js";

export function temporalMask(frames, warmup, mode, window) {     // [row][column], true = may attend
  const may = {bidirectional: () => true, windowed: (i, j) => Math.abs(i - j) < window, causal: (i, j) => j <= i,
    live2diff: (i, j) => j <= i || (i < warmup && j < warmup)}[mode];
  return Array.from({length: frames}, (_, i) => Array.from({length: frames}, (_, j) => may(i, j)));
}

export function reach(mask, layers) {                            // [after n layers][row][column], n = 0 .. layers
  const all = [mask.map((_, i) => mask.map((_, j) => i === j))];
  for (let n = 0; n < layers; n++) {
    const sees = all[n];
    all.push(mask.map((row, i) => row.map((_, j) => sees[i][j] || row.some((may, k) => may && sees[k][j]))));
  }
  return all;
}

const MODES = [["bidirectional", "(a) bidirectional"], ["windowed", "(b) windowed"], ["causal", "(c) causal"], ["live2diff", "(d) live2diff"]];

export function masks(root, data) {
  let at = Math.min(data.at, data.frames - 1), mask, levels;
  const mode = choice("mask", MODES, {value: data.mode, change: all});
  const frames = slider("frames", {min: 4, max: 24, value: data.frames, change: all});
  const warmup = slider("warmup", {min: 0, max: 12, value: data.warmup, change: all});
  const window = slider("window", {min: 1, max: 12, value: data.window, change: all});
  const layers = slider("layers", {min: 1, max: 6, value: data.layers, change: all});
  const steps = slider("denoising steps", {min: 1, max: 4, value: data.steps, change: all});
  const frame = slider("frame", {min: 0, max: data.frames - 1, value: at, change: n => light(n)});
  const grid = h("svg:svg", {viewBox: "0 0 360 360", width: 360, role: "img", class: "grid", style: "touch-action: pan-y"});
  const cone = h("svg:svg", {viewBox: "0 0 400 360", width: 400, role: "img", class: "cone"});
  const say = h("p", {class: "say", "aria-live": "polite"});
  const key = h("div", {class: "key"}, [["past", "may look at: this frame or an earlier one"], ["future", "may look at: a later frame"], ["late", "reaches it only through other frames"]].map(([kind, text]) =>
    h("span", {}, h("svg:svg", {width: 16, height: 16, viewBox: "0 0 16 16"}, mark(kind, 8, 8, 14)), text)));
  root.append(h("div", {class: "bar"}, mode.el, frames.el, warmup.el, window.el, layers.el, steps.el), h("div", {class: "bar"}, frame.el),
    h("div", {class: "panels"},
      h("div", {}, h("p", {class: "head"}, "who may look at whom (row asks, column answers)"), grid),
      h("div", {}, h("p", {class: "head"}, "what reaches the frame, layer by layer"), cone)), say, key);

  function mark(kind, x, y, size) {                              // full squares: past and future; small circles: through others
    const colour = kind === "future" || kind === "latefuture" ? "var(--orange)" : "var(--blue)";
    if (kind.startsWith("late")) return h("svg:circle", {cx: x, cy: y, r: size * .22, fill: colour});
    return [h("svg:rect", {x: x - size / 2, y: y - size / 2, width: size, height: size, rx: size * .12, fill: colour}),
      kind === "future" && h("svg:path", {d: `M${x - size * .22} ${y - size * .25} l${size * .45} ${size * .25} l${-size * .45} ${size * .25}`, fill: "none", stroke: "var(--on)", "stroke-width": Math.max(1, size * .11)})];
  }
  function all() {
    const n = frames.value;
    frame.input.max = n - 1;
    warmup.el.style.opacity = mode.value === "live2diff" ? 1 : .4;
    window.el.style.opacity = mode.value === "windowed" ? 1 : .4;
    mask = temporalMask(n, warmup.value, mode.value, window.value);
    levels = reach(mask, layers.value * steps.value);
    at = clamp(at, 0, n - 1);
    pick(at);
  }
  function pick(n) {
    at = clamp(n, 0, mask.length - 1);
    frame.show(at);
    drawGrid(); drawCone(); tell();
    root.dataset.frame = at;
  }
  function drawGrid() {
    const n = mask.length, left = 24, size = (358 - left) / n, after = levels.at(-1);
    const place = k => left + size * (k + .5);
    const cells = mask.flatMap((row, i) => row.map((may, j) => may || after[i][j] ? mark(`${may ? "" : "late"}${j > i ? "future" : may ? "past" : ""}`, place(j), place(i), size - 1.5) : null));
    grid.replaceChildren(
      h("svg:rect", {x: left, y: left, width: size * n, height: size * n, fill: "var(--soft)"}),
      ...cells.flat().filter(Boolean),
      h("svg:line", {x1: left, y1: left, x2: left + size * n, y2: left + size * n, stroke: "var(--faint)", "stroke-dasharray": "4 3"}),
      h("svg:rect", {class: "row", x: left, y: left + size * at, width: size * n, height: size, fill: "none", stroke: "var(--ink)", "stroke-width": 2}),
      ...[...new Set([0, at, n - 1])].flatMap(k => [h("svg:text", {x: left - 5, y: place(k) + 4, "text-anchor": "end"}, String(k)), h("svg:text", {x: place(k), y: left - 6, "text-anchor": "middle"}, String(k))]));
    grid.setAttribute("aria-label", `${mode.value} mask of ${n} frames; frame ${at} may look at ${mask[at].filter(Boolean).length}`);
  }
  function drawCone() {
    const n = mask.length, depth = levels.length - 1, left = 84, right = 392, top = 20, bottom = 318;
    const x = j => n === 1 ? left : left + 8 + (right - left - 16) * j / (n - 1), y = d => depth ? top + (bottom - top) * d / depth : top;
    const r = Math.min(8, (right - left) / n / 2.3, (bottom - top) / depth / 2.4);
    const dots = levels.flatMap((sees, d) => sees[at].map((seen, j) => h("svg:circle", {cx: x(j), cy: y(d), r: seen ? r : r * .45,
      fill: seen ? j > at ? "var(--orange)" : "var(--blue)" : "var(--line)", class: seen ? "seen" : ""})));
    const every = Math.ceil(depth / 12), labels = levels.map((_, d) => d % every ? null : h("svg:text", {x: 0, y: y(d) + 4, class: "faint"}, d === 0 ? "output" : d === depth ? "input" : d === 1 ? "1 layer below" : `${d} below`));
    cone.replaceChildren(h("svg:line", {x1: x(at), x2: x(at), y1: top, y2: bottom + 6, stroke: "var(--faint)", "stroke-dasharray": "4 3"}), ...labels.filter(Boolean), ...dots,
      ...[h("svg:text", {x: clamp(x(at), left + 20, right - 20), y: 344, "text-anchor": "middle"}, `frame ${at}`),
      at < n - 3 && h("svg:text", {x: right, y: 344, "text-anchor": "end", class: "faint"}, "later →"), at > 3 && h("svg:text", {x: left, y: 344, class: "faint"}, "← earlier")].filter(Boolean));
    cone.setAttribute("aria-label", `frame ${at} depends on ${levels.at(-1)[at].filter(Boolean).length} frames after ${plural(depth, "layer")}`);
  }
  function tell() {
    const direct = mask[at].filter(Boolean).length, after = levels.at(-1)[at], total = after.filter(Boolean).length;
    const last = after.lastIndexOf(true), wait = Math.max(0, last - at), together = mode.value === "live2diff" && at < warmup.value;
    say.replaceChildren(h("b", {}, `Frame ${at}`), ` may look at ${plural(direct, "frame")}. After ${plural(layers.value, "layer")} x ${plural(steps.value, "denoising step")} it depends on ${total}. `,
      h("b", {}, wait ? `It waits for frame ${last}, ${plural(wait, "frame")} into the future` : "It waits for nothing"), wait ? together ? ": the warmup is denoised together, once, at the start." : last === mask.length - 1 && mode.value !== "live2diff" ? ", the end of the clip." : "." : ".");
  }
  const point = event => {
    const box = grid.getBoundingClientRect(), row = Math.floor(((event.clientY - box.top) / box.height * 360 - 24) / ((358 - 24) / mask.length));
    if (row >= 0 && row < mask.length && row !== at) light(row);
  };
  grid.onpointermove = grid.onpointerdown = point;
  root.addEventListener("keydown", event => {
    const by = {ArrowUp: -1, ArrowDown: 1, ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (by && event.target === root) { light(clamp(at + by, 0, mask.length - 1)); event.preventDefault(); }
  });
  onLight(root, n => n !== null && n < mask.length && pick(n));
  all();
}

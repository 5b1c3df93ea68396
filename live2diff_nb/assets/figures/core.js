// What all figures share: elements, controls, a player, the frame that lights up in several figures, plots.
// Hand-written, no build step, nothing loaded from anywhere.

const SVG = "http://www.w3.org/2000/svg";

export function h(tag, attributes = {}, ...children) {          // an element; "svg:rect" is one of SVG
  const element = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element[name] = value;
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(9).filter(child => child !== null && child !== undefined && child !== false));
  return element;
}

export const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
export const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

// ---- controls: native ones, so keyboard, touch and screen readers know them ------------------------------------------
export function slider(text, {min, max, step = 1, value, shown = v => v, change}) {
  const out = h("output", {}, String(shown(value)));
  const input = h("input", {type: "range", min, max, step, "aria-label": text, oninput: () => set(+input.value)});
  const show = v => { input.value = v; out.textContent = shown(v); input.setAttribute("aria-valuetext", shown(v)); };
  const set = v => { show(v); change?.(v); };
  show(value);
  return {el: h("label", {class: "control"}, text, input, out), input, show, get value() { return +input.value; }};
}

export function choice(text, options, {value, change}) {          // options: [[value, text], ...]
  const input = h("select", {"aria-label": text, onchange: () => change?.(input.value)},
    options.map(([key, name]) => h("option", {value: key, selected: String(key) === String(value)}, name)));
  return {el: h("label", {class: "control"}, text, input), input, get value() { return input.value; }};
}

export function toggle(text, {value, change}) {
  const input = h("input", {type: "checkbox", "aria-label": text, checked: value, onchange: () => change?.(input.checked)});
  return {el: h("label", {class: "control"}, input, text), input, get value() { return input.checked; }};
}

// ---- a picture with a title above and a note below; `over` is drawn on it ---------------------------------------------
export function card(title, href, note, {width = 160, height = 150, over = [], below = 0} = {}) {
  return h("svg:svg", {viewBox: `0 0 ${width} ${height + below + 38}`, width, role: "img", "aria-label": `${title}: ${note}`}, h("svg:text", {x: 0, y: 12, style: "font-weight: 600"}, title),
    h("svg:image", {href, x: 0, y: 20, width, height, preserveAspectRatio: "none"}), over, h("svg:text", {x: 0, y: height + below + 34, class: "faint"}, note));
}

export const side = (root, wide = 200, narrow = 166) => root.clientWidth > 640 ? wide : narrow;   // of a card, pixels
export const stroke = (colour, dash = null) => h("svg:svg", {width: 28, height: 10, viewBox: "0 0 28 10"},     // of a key
  h("svg:line", {x1: 0, x2: 28, y1: 5, y2: 5, stroke: `var(${colour})`, "stroke-width": 2.5, "stroke-dasharray": dash?.join(" ")}));

// ---- play, pause, step, scrub ----------------------------------------------------------------------------------------
// `show(at)` draws a moment and returns its text. Nothing plays by itself; space and arrows work where the figure has focus.
export function player(root, {length, show, text, said = at => `${text} ${at}`, rate = 3, start = 0}) {
  let at = start, timer = null, count = length;
  const button = (label, title, onclick) => h("button", {type: "button", title, "aria-label": title, onclick}, label);
  const icon = path => h("svg:svg", {viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true"}, h("svg:path", {d: path, fill: "currentColor"}));
  const RUN = "M2 1 L11 6 L2 11 Z", HALT = "M2 1 h3 v10 h-3 Z M7 1 h3 v10 h-3 Z", BACK = "M1 1 h2 v10 h-2 Z M11 1 L4 6 L11 11 Z";
  const play = button(icon(RUN), "play", () => timer ? stop() : run());
  const scrub = h("input", {type: "range", min: 0, max: count - 1, value: at, "aria-label": text, oninput: () => { stop(); go(+scrub.value); }});
  const where = h("output", {class: "where"});
  const speed = choice("speed", [[.5, "½"], [1, "1"], [2, "2"], [4, "4"]], {value: 1, change: () => timer && (stop(), run())});
  const el = h("div", {class: "player", role: "group", "aria-label": "playback"},
    button(icon(BACK), "to the start", () => { stop(); go(0); }), button("−1", "one step back", () => { stop(); go(at - 1); }), play,
    button("+1", "one step on", () => { stop(); go(at + 1); }), scrub, where, speed.el);
  function go(n) {
    at = clamp(n, 0, count - 1);
    scrub.value = at;
    where.textContent = said(at);
    scrub.setAttribute("aria-valuetext", said(at));
    root.dataset.at = at;
    show(at);
  }
  function run() {
    if (at === count - 1) go(0);
    timer = setInterval(() => { if (!root.isConnected || at === count - 1) stop(); else go(at + 1); }, 1000 / (rate * speed.value));
    play.replaceChildren(icon(HALT)); play.title = play.ariaLabel = "pause"; root.dataset.playing = ""; spoken("off");
  }
  function stop() {
    clearInterval(timer); timer = null;
    play.replaceChildren(icon(RUN)); play.title = play.ariaLabel = "play"; delete root.dataset.playing; spoken("polite");
  }
  const spoken = live => root.querySelector(".say")?.setAttribute("aria-live", live);   // a screen reader is told of single steps only
  root.addEventListener("keydown", event => {
    const own = /^(INPUT|SELECT|BUTTON)$/.test(event.target.tagName);
    const act = {" ": () => play.click(), ArrowRight: () => { stop(); go(at + 1); }, ArrowLeft: () => { stop(); go(at - 1); },
      Home: () => { stop(); go(0); }, End: () => { stop(); go(count - 1); }}[event.key];
    if (own || !act || event.ctrlKey || event.metaKey || event.altKey) return;
    act(); event.preventDefault();
  });
  return {el, go, stop, get at() { return at; }, resize(n) { count = n; scrub.max = n - 1; go(at); }};
}

// ---- one frame lights up in all figures of a page --------------------------------------------------------------------
const LIT = "l2d-frame";
export const light = frame => document.dispatchEvent(new CustomEvent(LIT, {detail: frame}));    // null: none
export function onLight(root, seen) {
  const listen = event => root.isConnected ? seen(event.detail) : document.removeEventListener(LIT, listen);
  document.addEventListener(LIT, listen);
}

// ---- plots by uPlot, redrawn when the theme changes ------------------------------------------------------------------
export function plot(box, {series, x, y, height = 180, data, range}) {
  let made = null;
  const css = name => getComputedStyle(box).getPropertyValue(name).trim();
  const axis = label => ({label, stroke: css("--ink"), grid: {stroke: css("--line"), width: 1}, ticks: {stroke: css("--line")},
    font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif", labelSize: 20, size: 42});
  function make() {
    made?.destroy();
    made = new uPlot({width: Math.max(240, box.clientWidth), height, legend: {show: false}, cursor: {show: false}, pxAlign: 0,
      scales: {x: {time: false, range: range?.x}, y: {range: range?.y}},
      axes: [{...axis(x), size: 34}, axis(y)],
      series: [{}, ...series.map(one => ({label: one.text, stroke: css(one.colour), width: one.width ?? 2, dash: one.dash,
        points: {show: false}, spanGaps: false}))]}, data, box);
    made.root.querySelector("canvas").setAttribute("aria-hidden", "true");
  }
  requestAnimationFrame(make);
  onTheme(box, make);
  new ResizeObserver(() => made && box.clientWidth && Math.abs(made.width - box.clientWidth) > 1 && made.setSize({width: Math.max(240, box.clientWidth), height})).observe(box);
  return {set(next) { data = next; made?.setData(next); }};
}

export function onTheme(root, changed) {
  const watch = new MutationObserver(() => root.isConnected ? changed() : watch.disconnect());
  for (const element of [document.documentElement, document.body])
    watch.observe(element, {attributes: true, attributeFilter: ["class", "data-theme", "data-jp-theme-name", "data-jp-theme-light"]});
}

export const DARK = ':is([data-theme="dark"], [data-jp-theme-light="false"], .quarto-dark, .vscode-dark)';
export const STYLE = `
.l2d-figure { --ink: #1c2128; --faint: #5b6572; --line: #d5dae1; --ground: #fff; --soft: #f2f4f7; --blue: #0072b2; --orange: #d55e00; --green: #007a5a;
  --pale: #b9d9ec; --on: #fff; color: var(--ink); background: var(--ground); border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem; margin: .4rem 0;
  font: 14px/1.45 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; max-width: 100%; box-sizing: border-box; overflow: hidden }
${DARK} .l2d-figure { --ink: #dfe4ea; --faint: #98a3b0; --line: #3a424c; --ground: #15181d; --soft: #20252c; --blue: #56b4e9; --orange: #f0a03c; --green: #2fc08f; --pale: #27516b; --on: #10151a }
.l2d-figure * { box-sizing: border-box } .l2d-figure:focus-visible, .l2d-figure :focus-visible { outline: 2px solid var(--blue); outline-offset: 2px }
.l2d-figure .bar, .l2d-figure .player { display: flex; flex-wrap: wrap; gap: .3rem .9rem; align-items: center; margin: .15rem 0 .5rem }
.l2d-figure .player { gap: .3rem } .l2d-figure .player > input { flex: 1 1 8rem; min-width: 6rem } .l2d-figure .where { min-width: 6.5em; margin-right: .4rem; font-variant-numeric: tabular-nums }
.l2d-figure .control { display: inline-flex; max-width: 100%; align-items: center; gap: .4rem; color: var(--faint) } .l2d-figure .control input[type=range] { width: 7.5rem; min-width: 4rem } .l2d-figure .control input { accent-color: var(--blue) }
.l2d-figure input[type=range] { accent-color: var(--blue); margin: 0; padding: 0; min-height: 1.6rem } .l2d-figure output { min-width: 1.6em; white-space: nowrap; color: var(--ink); font-variant-numeric: tabular-nums }
.l2d-figure button, .l2d-figure select { font: inherit; color: var(--ink); background: var(--soft); border: 1px solid var(--line); border-radius: 5px; min-height: 2rem; min-width: 2.2rem; padding: .1rem .5rem; cursor: pointer }
.l2d-figure .say { margin: .5rem 0 0; min-height: 2.9em; max-width: none } .l2d-figure .key { display: flex; flex-wrap: wrap; gap: .2rem 1rem; color: var(--faint); font-size: 13px; margin: .4rem 0 0 }
.l2d-figure .key span { display: inline-flex; align-items: center; gap: .35rem } .l2d-figure .key svg { flex: none }
.l2d-figure .panels { display: flex; flex-wrap: wrap; gap: .8rem 1.4rem; align-items: flex-start } .l2d-figure .panels > * { min-width: 0 } .l2d-figure .cards { flex: 1 1 17rem; gap: .6rem 1rem } .l2d-figure .dials { gap: .3rem .8rem } .l2d-figure button svg { margin: auto }
.l2d-figure svg { display: block; max-width: 100%; height: auto } .l2d-figure .dials > svg { max-width: calc(50% - .4rem) } .l2d-figure .three > svg { max-width: calc(33.3% - .54rem) } .l2d-figure svg text { font: 11px system-ui, sans-serif; fill: var(--ink); pointer-events: none } .l2d-figure svg .faint { fill: var(--faint) }
.l2d-figure .head { margin: 0 0 .2rem; font-weight: 600; font-size: 13px } .l2d-figure rect, .l2d-figure circle, .l2d-figure line { transition: fill .2s, opacity .2s }
.l2d-figure .plot { width: 100%; min-width: 0 } .l2d-figure table { display: table; font-size: 13px; margin: .3rem 0; border-collapse: collapse } .l2d-figure td, .l2d-figure th { padding: .15rem .7rem .15rem 0; text-align: left; border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums }
.l2d-figure img { max-width: 100%; height: auto; image-rendering: auto; background: none !important; padding: 0 !important }
@media (prefers-reduced-motion: reduce) { .l2d-figure * { transition: none !important; animation: none !important } }`;

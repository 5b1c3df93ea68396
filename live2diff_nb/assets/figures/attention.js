// Attention at one place: the weights that a running engine gave to the slots of its cache, head by head and row by row.
import {clamp, h, light, onLight, player} from "./core.js";

export function attention(root, data) {
  const {window, warmup, steps, places, grid, thumbs, heads} = data;
  const bytes = steps.map(step => Uint8Array.from(atob(step.weights), c => c.charCodeAt(0)));
  let place = data.place, lit = null;
  const picture = h("svg:svg", {viewBox: "0 0 256 256", width: 256, role: "img", class: "frame", style: "touch-action: manipulation"});
  const tables = h("div", {style: "flex: 1 1 22rem"}), say = h("p", {class: "say", "aria-live": "polite"});
  const play = player(root, {length: steps.length, show: draw, text: "engine step", rate: 3, start: data.at});
  root.append(play.el, h("div", {class: "panels"}, h("div", {}, h("p", {class: "head"}, "the frame: choose a place"), picture), tables), say,
    h("div", {class: "key"}, "columns: frames in the cache, oldest first; bars: mean over the heads; below, each head; the stronger the colour, the more"));

  const weight = (s, row, head, slot) => bytes[s][((row * places.length + place) * heads + head) * window + slot] / 255;
  const mean = (s, row, slot) => { let sum = 0; for (let head = 0; head < heads; head++) sum += weight(s, row, head, slot); return sum / heads; };

  function drawPicture(s) {
    const row = steps[s].rows[0], size = [256 / grid[1], 256 / grid[0]];
    picture.replaceChildren(h("svg:image", {href: thumbs[row.frame + warmup], width: 256, height: 256, preserveAspectRatio: "none"}),
      ...places.map((at, n) => {
        const x = (at % grid[1] + .5) * size[0], y = (Math.floor(at / grid[1]) + .5) * size[1], on = n === place;
        const dot = h("svg:g", {class: "place", "data-place": n, style: "cursor: pointer"}, h("svg:rect", {x: x - 16, y: y - 16, width: 32, height: 32, fill: "transparent"}),
          on && h("svg:rect", {x: x - size[0] / 2 - 1, y: y - size[1] / 2 - 1, width: size[0] + 2, height: size[1] + 2, fill: "none", stroke: "#000", "stroke-width": 5}),
          on ? h("svg:rect", {x: x - size[0] / 2 - 1, y: y - size[1] / 2 - 1, width: size[0] + 2, height: size[1] + 2, fill: "none", stroke: "#f0a03c", "stroke-width": 2.5}) : h("svg:circle", {cx: x, cy: y, r: 2.4, fill: "#fff", stroke: "#000", "stroke-width": .8}));
        dot.onpointerdown = () => choose(n);
        return dot;
      }));
    picture.setAttribute("aria-label", `streamed frame ${row.frame} with ${places.length} places, place ${place} chosen`);
  }
  function table(s, k) {
    const row = steps[s].rows[k], order = row.position.map((p, j) => [p, j]).filter(([, j]) => row.visible[j]).sort((a, b) => a[0] - b[0]).map(([, j]) => j);
    const left = 52, cell = clamp((tables.clientWidth - 60) / window, 15, 31), top = cell + 1, bars = 46, high = 15, width = left + cell * window + 4, base = top + bars;
    const most = Math.max(...order.map(j => mean(s, k, j))), peak = Math.max(...order.flatMap(j => Array.from({length: heads}, (_, head) => weight(s, k, head, j))));
    const svg = h("svg:svg", {viewBox: `0 0 ${width} ${base + heads * high + 20}`, width, role: "img", "aria-label": `row ${k}: attention over ${order.length} frames`});
    order.forEach((j, n) => {
      const x = left + n * cell, frame = row.holds[j], value = mean(s, k, j), on = lit !== null && frame + warmup === lit, tall = (bars - 14) * value / most;
      const colour = on ? "var(--green)" : j === row.slot ? "var(--orange)" : "var(--blue)";
      const column = h("svg:g", {class: "column", "data-clip": frame + warmup}, h("svg:image", {href: thumbs[frame + warmup], x: x + 1, y: 1, width: cell - 2, height: cell - 2, preserveAspectRatio: "xMidYMid slice"}),
        h("svg:rect", {x: x + 1, y: 1, width: cell - 2, height: cell - 2, fill: "none", stroke: on || j === row.slot ? colour : "none", "stroke-width": 2.5}),
        h("svg:rect", {x: x + 2, y: base - tall, width: cell - 4, height: tall, fill: colour}),
        h("svg:text", {x: x + cell / 2, y: base - tall - 3, "text-anchor": "middle", style: "font-size: 9px"}, (100 * value).toFixed(0)),
        Array.from({length: heads}, (_, head) => h("svg:rect", {x: x + 1, y: base + 2 + head * high, width: cell - 2, height: high - 2, fill: colour, opacity: .06 + .94 * weight(s, k, head, j) / peak})),
        h("svg:text", {x: x + cell / 2, y: base + heads * high + 14, "text-anchor": "middle", class: j < warmup ? "faint" : "", style: "font-size: 10px"}, String(frame)));
      column.onpointerenter = column.onpointerdown = () => light(frame + warmup);
      svg.append(column);
    });
    svg.append(h("svg:text", {x: 0, y: base - 4}, "mean, %"), ...Array.from({length: heads}, (_, head) => h("svg:text", {x: 0, y: base + 12 + head * high, class: "faint"}, `head ${head}`)), h("svg:text", {x: 0, y: base + heads * high + 14, class: "faint"}, "frame"));
    return [h("p", {class: "head"}, `row ${k}, t = ${data.timesteps[k]}: frame ${row.frame}`), svg];
  }
  function draw(s) {
    drawPicture(s);
    tables.replaceChildren(...steps[s].rows.flatMap((row, k) => row ? table(s, k) : []));
    const row = steps[s].rows[0], seen = row.holds.map((_, j) => j).filter(j => row.visible[j]), share = seen.filter(j => j < warmup).reduce((sum, j) => sum + mean(s, 0, j), 0);
    const best = seen.reduce((a, b) => mean(s, 0, b) > mean(s, 0, a) ? b : a), own = mean(s, 0, row.slot);
    say.replaceChildren(h("b", {}, `Place ${place}. `), `In row 0 frame ${row.frame} gives ${(100 * own).toFixed(0)} % to itself, ${(100 * share).toFixed(0)} % to the ${warmup} warmup frames, and most to frame ${row.holds[best]} (${(100 * mean(s, 0, best)).toFixed(0)} %).`);
    root.dataset.shows = `${s} ${place}`;
  }
  function choose(n) { place = clamp(n, 0, places.length - 1); draw(play.at); }
  root.addEventListener("keydown", event => {
    const by = {ArrowUp: -data.across, ArrowDown: data.across, "[": -1, "]": 1}[event.key];
    if (by && !/^(INPUT|SELECT)$/.test(event.target.tagName) && place + by >= 0 && place + by < places.length) { choose(place + by); event.preventDefault(); }
  });
  new ResizeObserver(() => draw(play.at)).observe(root);
  onLight(root, clip => { lit = clip; draw(play.at); });
  play.go(data.at);
}

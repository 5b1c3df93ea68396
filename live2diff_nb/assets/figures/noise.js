// Noise and strength: a frame, its noised latent decoded, and what the model makes of it, entry timestep by timestep.
import {card, choice, h, player, plot, side, slider, stroke} from "./core.js";

export function noise(root, data, ask) {
  const looks = {alpha: ["--blue", null], sigma: ["--orange", [7, 4]], kept: ["--green", [2, 3]]};
  const styles = () => Object.keys(data.entries[0].made);
  const style = choice("style", styles().map(name => [name, name]), {value: styles()[0], change: () => play.go(play.at)});
  const frame = ask && data.frames ? slider("frame of the clip", {min: 0, max: data.frames - 1, value: data.frame ?? 0, change: n => ask({frame: n})}) : null;
  const pictures = h("div", {class: "panels dials"}), box = h("div", {class: "plot"}), say = h("p", {class: "say", "aria-live": "polite"});
  const play = player(root, {length: data.entries.length, show: draw, text: "entry timestep", said: n => `t = ${data.entries[n].t}`, rate: 3, start: data.at});
  root.append(h("div", {class: "bar"}, style.el, frame?.el ?? ""), play.el, pictures, box, h("div", {class: "key"}, [["alpha", "weight of the frame, alpha"], ["sigma", "weight of the noise, sigma"], ["kept", "shapes kept in the output"]].map(([name, text]) =>
    h("span", {}, stroke(...looks[name]), text))), say);
  let drawn = null;

  const all = name => data.entries.map(one => name === "kept" ? one.kept[style.value] : one[name]);
  function draw(n) {
    if (!root.contains(say)) return;
    const SIDE = side(root), one = data.entries[n], trained = one.t <= data.most, names = Object.keys(looks), strength = ((one.t + 1) / 1000).toFixed(2);
    pictures.replaceChildren(card("the frame", data.frame_picture, "as the camera gave it", {width: SIDE, height: SIDE}),
      card("its noised latent, decoded", one.noised, `t = ${one.t}, strength ${strength}`, {width: SIDE, height: SIDE}),
      card("what comes out", one.made[style.value], trained ? "as the model was trained" : "beyond its training", {width: SIDE, height: SIDE}));
    const columns = [data.entries.map(e => e.t), ...names.map(all), ...names.map(name => all(name).map((v, i) => i <= n ? v : null))];
    if (drawn) drawn.set(columns);
    else drawn = plot(box, {x: "entry timestep", y: "share, 0 to 1", height: 170, data: columns, range: {x: () => [0, 1000], y: () => [0, 1.02]}, series: [
      ...names.map(text => ({text, colour: "--line", width: 1.5})), ...names.map(text => ({text, colour: looks[text][0], dash: looks[text][1] ?? undefined, width: 2.5}))]});
    const kept = one.kept[style.value].toFixed(2);
    box.setAttribute("role", "img"); box.setAttribute("aria-label", `alpha ${one.alpha.toFixed(2)}, sigma ${one.sigma.toFixed(2)}, shapes kept ${kept}`);
    say.replaceChildren(h("b", {}, `t = ${one.t}, strength ${strength}. `), `${one.alpha.toFixed(2)} of the latent and ${one.sigma.toFixed(2)} of noise enter. The output's coarse brightness correlates ${kept} with the frame's. `,
      trained ? "" : `The model was trained on entries up to t = ${data.most} only.`);
    root.dataset.shows = `${style.value} ${one.t}`;
  }
  play.go(data.at);
  return next => { data = next; play.go(play.at); };
}

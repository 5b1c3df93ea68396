// The network as an SVG that figures.network made: each box is a link to the page of its class.
import {h} from "./core.js";

export function network(root, data) {
  const box = h("div", {style: "overflow-x: auto"});
  box.innerHTML = data.svg;
  if (location.pathname.endsWith(".html"))                       // on a site the pages are not notebooks
    for (const link of box.querySelectorAll("a")) link.setAttribute("href", link.getAttribute("href").replace(".ipynb", ".html"));
  root.append(box);
}

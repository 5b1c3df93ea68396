// Search over all pages. MiniSearch and the index are loaded when the box is entered, as scripts: a page opened as a
// file may not fetch.
const root = document.currentScript.dataset.root;
const box = document.querySelector(".search input"), list = document.getElementById("found");
let search, chosen = -1;

const script = name => new Promise((done, failed) => {
  const made = document.createElement("script");
  document.head.append(Object.assign(made, { src: `${root}assets/${name}`, onload: done, onerror: failed }));
});

// A name counts as a whole and by its parts: temporal_mask, temporal, mask.
const asked = text => text.match(/[\p{L}\p{N}_]+/gu) || [];
const words = text => asked(text).flatMap(word => word.includes("_") ? [word, ...word.split("_")] : [word]);

let loading;
const load = () => loading ??= Promise.all([script("minisearch.min.js"), script("index.js")]).then(() => {
  search = new MiniSearch({
    fields: ["heading", "title", "text"], tokenize: words,
    searchOptions: { tokenize: asked, prefix: true, combineWith: "AND", boost: { heading: 4, title: 3 },
      boostDocument: id => searchIndex[id][0].startsWith("api/") ? 0.5 : 1 }, // the page that explains a thing is first
  });
  search.addAll(searchIndex.map(([, title, heading, text], id) => ({ id, title, heading: heading || title, text })));
});

const element = (name, className, ...inside) => {
  const made = Object.assign(document.createElement(name), { className });
  made.append(...inside);
  return made;
};

function snippet(text, terms) { // the surroundings of the first term, every term marked
  const found = new RegExp([...terms].sort((a, b) => b.length - a.length).join("|"), "giu"); // letters, digits, _ only
  const first = Math.max(0, text.search(found)), start = text.lastIndexOf(" ", Math.max(0, first - 60)) + 1;
  const part = text.slice(start, start + 180), line = element("span", "snippet", start ? "… " : "");
  let last = 0;
  for (const match of part.matchAll(found)) {
    line.append(part.slice(last, match.index), element("mark", "", match[0]));
    last = match.index + match[0].length;
  }
  line.append(part.slice(last), start + 180 < text.length ? " …" : "");
  return line;
}

function choose(index) {
  const links = [...list.querySelectorAll("a")];
  chosen = links.length ? (index + links.length) % links.length : -1;
  links.forEach((link, i) => link.parentElement.setAttribute("aria-selected", i === chosen));
  box.setAttribute("aria-activedescendant", chosen < 0 ? "" : `found-${chosen}`);
  links[chosen]?.scrollIntoView({ block: "nearest" });
}

function open(shown) {
  list.hidden = !shown;
  box.setAttribute("aria-expanded", shown);
}

async function show() {
  await load();
  const text = box.value.trim(), results = text ? search.search(text).slice(0, 12) : [];
  list.replaceChildren(...results.map(({ id, terms }, i) => {
    const [address, title, heading, body] = searchIndex[id];
    const head = element("span", "where", element("b", "", heading || title), heading ? ` ${title}` : "");
    const link = Object.assign(element("a", "", head, snippet(body, terms)), { href: root + address, tabIndex: -1 });
    link.addEventListener("click", close);
    const item = element("li", "", link);
    item.id = `found-${i}`;
    item.setAttribute("role", "option");
    return item;
  }));
  if (text && !results.length) list.append(element("li", "nothing", `Nothing found for “${text}”.`));
  open(Boolean(text));
  choose(0);
}

function close() {
  open(false);
  box.blur();
}

box.addEventListener("focus", () => { load(); if (box.value) show(); });
box.addEventListener("input", show);
box.addEventListener("keydown", event => {
  if (event.key === "Escape") close();
  else if (event.key === "ArrowDown") choose(chosen + 1);
  else if (event.key === "ArrowUp") choose(chosen - 1);
  else if (event.key === "Enter") list.querySelectorAll("a")[chosen]?.click();
  else return;
  event.preventDefault();
});
document.addEventListener("keydown", event => {
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key !== "/" || event.ctrlKey || event.metaKey || typing) return;
  event.preventDefault();
  box.focus();
  box.select();
});
document.addEventListener("pointerdown", event => { if (!event.target.closest(".search")) open(false); });

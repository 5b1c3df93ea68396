// The page's half of `LiveTranslator`: one pump a widget model takes, sends and receives frames; views only show them.
// Hand-written, no build step, nothing loaded from anywhere: `figures.figure.joined` puts what it imports in front of
// it.
import {STYLE, clamp} from "./figures/core.js";
import {rowCard} from "./figures/ring.js";

const CREDITS = 2, SILENCE = 6000;
const now = () => performance.now();
const token = () => Array.from({length: 4}, () => Math.random().toString(36).slice(2, 8)).join("");
// size of a picture w x h brought into width x height, beyond it where it is cropped
const fitted = (fit, w, h, width, height) => {
  if (fit === "stretch") return [width, height];
  const scale = (fit === "pad" ? Math.min : Math.max)(width / w, height / h);
  return [w * scale, h * scale];
};
const percentile = (values, p) => { const s = [...values].sort((a, b) => a - b);
  return s.length ? s[Math.min(s.length - 1, Math.floor(p * s.length))] : 0; };

// ---- the way to the kernel: a socket on this machine, or the widget's own channel -----------------------------------
function pack(content, buffers) {
  const head = new TextEncoder().encode(JSON.stringify({content, sizes: buffers.map(b => b.byteLength)}));
  const out = new Uint8Array(4 + head.length + buffers.reduce((n, b) => n + b.byteLength, 0));
  new DataView(out.buffer).setUint32(0, head.length, true);
  out.set(head, 4);
  let at = 4 + head.length;
  for (const b of buffers) { out.set(new Uint8Array(b), at); at += b.byteLength; }
  return out;
}

function unpack(data) {
  const length = new DataView(data).getUint32(0, true),
    head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  let at = 4 + length;
  const buffers = head.sizes.map(size => { const part = data.slice(at, at + size); at += size; return part; });
  return [head.content, buffers];
}

class Wire {
  constructor(model, receive) {
    this.model = model; this.receive = receive; this.socket = null; this.waits = 0;
    this.onComm = (content, buffers) => receive(content, buffers);
    model.on("msg:custom", this.onComm);
  }
  get name() { return this.socket ? "local socket" : "notebook channel"; }
  async connect(url) {                       // -> is the socket in use?
    if (!url || !["localhost", "127.0.0.1", "[::1]"].includes(location.hostname)) return false;
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    const open = await new Promise(done => {
      socket.onopen = () => done(true); socket.onerror = socket.onclose = () => done(false);
      setTimeout(done, 1500, false); });
    if (!open) { socket.close(); return false; }
    socket.onmessage = event => this.receive(...unpack(event.data));
    socket.onclose = () => { if (this.socket === socket) { this.socket = null; this.onchange?.(); } };
    this.socket = socket;
    return true;
  }
  send(content, buffers = []) {
    if (this.socket?.readyState === 1) this.socket.send(pack(content, buffers));
    else try { this.model.send(content, undefined, buffers); } catch (error) { console.debug("not sent", error); }
  }
  close() { this.model.off("msg:custom", this.onComm); const socket = this.socket;
    this.socket = null; socket?.close(); }
}

// ---- what a refused camera, screen or stream means ------------------------------------------------------------------
function sourceTrouble(takes, error) {       // -> [name for the books, sentence for the user]
  const own = ' Or use a source on the kernel\'s side: LiveTranslator(pipe, source="synthetic").',
    name = error?.name || "Error";
  if (takes === "stream") return [name, /no view/.test(error?.message) ?
    "Only what is on the page can be taken: show the widget in a cell first, then press Start." :
    `The stream cannot be opened: ${error?.message || name}.`];
  if (!window.isSecureContext) return ["InsecureOrigin",
    `Browsers give a camera or screen to secure pages only, and ${location.origin} is not one: open the notebook ` +
    `over HTTPS, or as http://localhost through an SSH tunnel (ssh -L).` + own];
  const said = takes === "screen" ? {
    NotAllowedError: "Sharing the screen was refused. Press Start and choose what to share.",
    InvalidStateError: "A screen is shared only after a press of Start in the page."} : {
    NotAllowedError: "The camera was denied. Allow it with the camera sign in the address bar, then press Start.",
    NotFoundError: "No camera was found. Plug one in, then press Start.",
    NotReadableError: "The camera is used by another program. Close that, then press Start.",
    OverconstrainedError: "No camera can do what was asked of it. Ask for less in the CameraStream's constraints."};
  return [name, (said[name] || `The ${takes} cannot be opened: ${error?.message || name}.`) + own];
}

// ---- the pump -------------------------------------------------------------------------------------------------------
class Pump {
  constructor(model) {
    this.model = model; this.page = token(); this.run = ""; this.views = new Set();
    this.status = {settings: {}, counts: {}};
    this.wire = new Wire(model, (content, buffers) => this.receive(content, buffers));
    this.wire.onchange = () => this.show();
    this.video = null; this.grabbing = false; this.fresh = false; this.next = 0;
    this.floor = 0; this.epoch = 0; this.last = -1;
    this.flight = new Map(); this.kept = new Map(); this.trouble = ""; this.note = "";
    this.heard = now(); this.mirror = model.get("config").mirror;
    this.latencies = []; this.paints = []; this.painted = 0; this.lost = 0; this.skipped = 0; this.pending = null;
    this.input = document.createElement("canvas"); this.output = document.createElement("canvas");
    this.watchdog = setInterval(() => this.watch(), 500);
    this.onHide = () => { this.heard = now(); this.flight.clear(); this.show(); if (!document.hidden) this.draw(); };
    document.addEventListener("visibilitychange", this.onHide);
    this.onLeave = () => this.send({kind: "bye"});
    window.addEventListener("pagehide", this.onLeave);
    this.begun = this.begin();
  }
  async begin() {
    try { await this.wire.connect(this.model.get("config").socket);
      } catch (error) { console.debug("no socket", error); }
    this.send({kind: "hello"});
  }
  send(content, buffers) { this.wire.send({...content, page: this.page}, buffers); }
  get mine() { return this.status.running && this.status.owner === this.page; }

  receive(content, buffers) {
    if (this.closed) return;
    this.heard = now();
    if (content.kind === "status") this.onStatus(content);
    else if (content.kind === "result") this.onResult(content, buffers);
    else if (content.kind === "drop") { if (content.run === this.run) this.flight.delete(content.id); this.grab(); }
    else if (content.kind === "engine") { this.engine = content; for (const view of this.views) view.drawEngine(); }
    else if (content.kind === "recorded" && content.page === this.page) this.onRecorded(content, buffers);
  }
  onStatus(status) {
    this.status = status;
    if (status.epoch > this.epoch) this.epoch = status.epoch;
    if (status.running && status.browser) {
      if (status.owner === this.page && status.run === this.run) this.capture();
      else if (!status.owner ||
        (status.owner !== this.page && status.idle > 2.5 && !document.hidden &&
          status.takes !== "screen")) this.start();
    }
    if ((!status.running || status.owner !== this.page) && this.video) this.release();
    if (!status.running) this.note = "";
    this.show();
  }
  start() {
    this.run = token(); this.trouble = ""; this.flight.clear();
    this.kept.clear(); this.last = -1; this.floor = this.next;
    this.latencies = []; this.paints = []; this.heard = now(); this.lost = this.skipped = this.painted = 0;
    this.send({kind: "start", run: this.run});
    this.waiting = now();
    this.show();
  }
  stop(trouble = "") {
    this.trouble = trouble || this.trouble; this.waiting = 0;
    this.release();
    this.send({kind: "stop"});
    this.show();
  }
  set(name, value) {
    // nothing older is painted any more
    if (["prompt", "style", "strength", "steps", "seed", "size", "at", "step", "fit", "noise",
      "motion_strength"].includes(name)) this.floor = this.next;
    this.send({kind: "set", name, value});
  }
  fail(name, text) { this.send({kind: "trouble", name: String(name).slice(0, 80), text: text.slice(0, 500)});
    this.stop(text); }

  // -- taking frames
  async stream() {
    if (this.own && !navigator.mediaDevices) throw new Error("no mediaDevices");
    if (this.status.takes === "screen") return await navigator.mediaDevices.getDisplayMedia({video: {frameRate: 30}});
    let raw = null;
    for (let tries = 0; !raw && tries < 50; tries++) {
      try { raw = await this.model.widget_manager.get_model(this.status.stream);
        } catch { /* its description is still on the way */ }
      if (!raw) await new Promise(done => setTimeout(done, 100));
    }
    if (!raw) throw new Error("the stream of the widget is not known to this page; run the cell again");
    // or ipywebrtc remembers the refusal
    try { return await raw.captureStream(); } catch (error) { raw.cameraStream = null; throw error; }
  }
  async capture() {
    if (this.video || this.closed) return;
    const video = this.video = document.createElement("video"), run = this.run, takes = this.status.takes;
    video.muted = true; video.playsInline = true; this.waiting = 0;
    this.own = takes !== "stream";                       // a stream that was handed to us is not ours to stop
    try {
      const stream = await this.stream();
      if (this.video !== video || this.run !== run) {
        if (takes !== "stream") stream.getTracks().forEach(t => t.stop()); return; }
      const tracks = stream.getVideoTracks();
      if (!tracks.length) throw new Error("it has no pictures");
      this.media = stream;
      for (const track of tracks) track.onended = () => this.video === video && this.ended(takes);
      video.srcObject = stream;
      await video.play();
      if (this.video !== video) return;
    } catch (error) {
      if (this.video === video) this.fail(...sourceTrouble(takes, error));
      return;
    }
    const tick = (_, frame) => {
      if (this.video !== video) return;
      const t = frame?.captureTime; this.captured = t && t <= now() && t > now() - 1000 ? t : now();
      if (this.fresh) this.skipped++;
      this.fresh = true; this.seen = now();
      this.grab();
      video.requestVideoFrameCallback(tick);
    };
    this.seen = now();
    video.requestVideoFrameCallback(tick);
    // what stands still gives no new frames: show it again
    if (takes !== "camera") this.again = setInterval(() => {
      if (now() - this.seen > 150 && this.flight.size < CREDITS) {
        this.captured = now(); this.fresh = true; this.grab(); }
    }, 100);
  }
  ended(takes) {
    const said = {camera: "The camera is gone (unplugged, or taken away). Plug it in again and press Start.",
      screen: "The sharing was ended. Press Start to choose again."};
    this.fail("ended", said[takes] || "The stream has come to its end. Press Start to see it again.");
  }
  release() {
    const {video, media} = this;
    this.video = this.media = null; this.fresh = false; this.flight.clear(); clearInterval(this.again);
    if (media && this.own) media.getTracks().forEach(track => { track.onended = null; track.stop(); });
    if (video) video.srcObject = null;
  }
  async grab() {
    const {video, run} = this;
    if (!video || !this.fresh || this.grabbing || this.flight.size >= CREDITS ||
      !video.videoWidth || document.hidden) return;
    this.grabbing = true; this.fresh = false;
    const id = this.next++, t = this.captured, [width, height] = this.status.size;
    this.flight.set(id, now());
    try {
      const canvas = new OffscreenCanvas(width, height), draw = canvas.getContext("2d");
      const [w, h] = fitted(this.status.settings.fit, video.videoWidth, video.videoHeight, width, height);
      if (this.mirror) { draw.translate(width, 0); draw.scale(-1, 1); }
      // a phone turned: measured anew at each frame
      draw.drawImage(video, (width - w) / 2, (height - h) / 2, w, h);
      const data = await (await canvas.convertToBlob({type: "image/jpeg", quality: 0.88})).arrayBuffer();
      if (this.video !== video || this.run !== run) return;
      this.kept.set(id, canvas);
      for (const old of this.kept.keys()) if (old < id - 60) this.kept.delete(old);
      this.send({kind: "frame", run, id, t}, [data]);
      if (!this.split) this.paintInput(canvas);
    } finally { this.grabbing = false; }
    this.grab();
  }

  // -- showing pictures
  async onResult(result, buffers) {
    const kernel = !this.status.browser && result.run === "kernel";
    if (!kernel && result.run !== this.run) return;
    this.flight.delete(result.id);
    this.note = result.note === "same" ? "" : result.note;
    this.grab();
    if (result.of === null || !buffers.length) { if (kernel) this.send({kind: "painted", id: result.id});
      if (this.note) this.show(); return; }
    const jpegs = buffers.map(b => new Blob([b], {type: "image/jpeg"}));
    const [picture, input] = await Promise.all(jpegs.map(j => createImageBitmap(j)));
    if (this.pending) { this.pending.picture.close(); this.pending.input?.close();
      if (kernel) this.send({kind: "painted", id: this.pending.id}); }
    this.pending = {...result, picture, input, kernel};
    if (document.hidden) this.draw();
    else if (!this.drawing) { this.drawing = true;
      requestAnimationFrame(() => { this.drawing = false; this.draw(); }); }
  }
  draw() {
    const result = this.pending;
    if (!result) return;
    this.pending = null;
    if (result.kernel) this.send({kind: "painted", id: result.id});
    else if (result.run !== this.run || result.of < this.floor) return result.picture.close();
    const renewed = result.kernel && result.stream !== this.shown?.stream;            // its numbers start again
    if (result.epoch < this.epoch || (result.of <= this.last && !renewed)) return result.picture.close();
    this.epoch = result.epoch; this.last = result.of; this.note = ""; this.shown = result;
    const flip = this.mirror && result.kernel;
    this.paint(this.output, result.picture, flip);
    if (result.input) this.paint(this.input, result.input, flip);
    else if (this.split && this.kept.get(result.of)) this.paintInput(this.kept.get(result.of));
    for (const old of this.kept.keys()) if (old <= result.of) this.kept.delete(old);
    result.picture.close(); result.input?.close();
    this.painted++;
    this.paints.push(now());
    while (this.paints.length > 2 && this.paints[0] < now() - 3000) this.paints.shift();
    this.latencies.push(result.kernel ? this.status.latency || 0 : now() - result.t);
    if (this.latencies.length > 240) this.latencies.shift();
    for (const view of this.views) view.onPaint();
  }
  paint(canvas, picture, flip) {
    if (canvas.width !== picture.width || canvas.height !== picture.height) {
      canvas.width = picture.width; canvas.height = picture.height; }
    const draw = canvas.getContext("2d");
    draw.save();
    if (flip) { draw.translate(canvas.width, 0); draw.scale(-1, 1); }
    draw.drawImage(picture, 0, 0);
    draw.restore();
  }
  paintInput(canvas) { this.paint(this.input, canvas, false); for (const view of this.views) view.onInput(); }
  get fps() { const p = this.paints;
    return p.length > 2 && p.at(-1) > now() - 2000 ? (p.length - 1) * 1000 / (p.at(-1) - p[0]) : 0; }

  watch() {
    const limit = Math.max(2000, 5 * (this.status.work || 0));
    for (const [id, sent] of this.flight) if (now() - sent > limit) { this.flight.delete(id); this.lost++; }
    const silent = now() - this.heard > SILENCE;
    if ((this.video || this.waiting || (this.status.running && !this.status.browser)) && silent) {
      this.status = {...this.status, running: false, owner: ""};
      this.waiting = 0;
      this.trouble = "The kernel does not answer: it was restarted, or has ended. Run the cell again.";
      this.release();
    } else if (this.status.running && (this.mine || !this.status.browser)) {
      this.send({kind: "alive", fps: this.fps, p50: percentile(this.latencies, .5),
        p95: percentile(this.latencies, .95), painted: this.painted, hidden: document.hidden});
      if (this.video && !document.hidden) {
        if (now() - this.seen > 3000 && this.status.takes === "camera") this.note = "no frames from the camera";
        else if (this.note === "no frames from the camera") this.note = "";
        this.grab();
      }
    }
    this.show();
  }
  onRecorded(content, buffers) {
    if (this.film) URL.revokeObjectURL(this.film.url);
    this.film = {name: content.name, text: content.text,
      url: buffers.length ?
      URL.createObjectURL(new Blob(buffers,
        {type: content.name.endsWith(".json") ? "application/json" : "video/mp4"})) : ""};
    this.show();
  }
  show() { for (const view of this.views) view.show(); }
  close() {
    this.closed = true;
    clearInterval(this.watchdog);
    document.removeEventListener("visibilitychange", this.onHide);
    window.removeEventListener("pagehide", this.onLeave);
    this.release();
    if (this.film) URL.revokeObjectURL(this.film.url);
    this.send({kind: "bye"});
    this.wire.close();
  }
}

// ---- a view ---------------------------------------------------------------------------------------------------------
const LOOK = `
.l2d{--ink:var(--jp-ui-font-color1,#222);--soft:var(--jp-ui-font-color2,#666);--ground:var(--jp-layout-color1,#fff);
  --box:var(--jp-layout-color2,#f3f3f3);--line:var(--jp-border-color2,#ccc);--key:var(--jp-brand-color1,#1976d2);
 color:var(--ink);background:var(--ground);font:13px/1.45 var(--jp-ui-font-family,system-ui,sans-serif);padding:10px;
   border:1px solid var(--line);border-radius:8px;box-sizing:border-box;max-width:100%;width:fit-content;
   outline-offset:2px}
.l2d *{box-sizing:border-box}.l2d:focus-visible{outline:2px solid var(--key)}
.l2d .stage{display:flex;gap:8px;flex-wrap:wrap;position:relative}
.l2d .pane{position:relative;background:#111;border-radius:6px;overflow:hidden;width:var(--side,300px);
  aspect-ratio:var(--shape,1);max-width:100%}
.l2d canvas.picture{width:100%;height:100%;display:block;object-fit:contain}
.l2d .tag{position:absolute;left:6px;top:6px;padding:1px 7px;border-radius:9px;background:#000a;color:#fff;
  font-size:11px}
.l2d .note{position:absolute;left:0;right:0;bottom:0;padding:6px;text-align:center;background:#000b;color:#fff;
  font-size:12px}.l2d .note:empty{display:none}
.l2d.split .stage{width:calc(var(--side,300px)*1.5);max-width:100%}.l2d.split .pane{width:100%}
.l2d.split .pane.out{position:absolute;inset:0;clip-path:inset(0 0 0 var(--cut,50%));background:none}
.l2d.split .pane.out .tag{left:auto;right:6px}
.l2d .cut{display:none}.l2d.split .cut{display:block;position:absolute;top:0;bottom:0;left:calc(var(--cut,50%) - 9px);
  width:18px;cursor:ew-resize;touch-action:none;background:linear-gradient(#fff,#fff) center/2px 100% no-repeat}
.l2d .row{display:flex;flex-wrap:wrap;gap:6px 10px;align-items:center;margin-top:8px;
  max-width:calc(var(--side,300px)*2 + 8px)}
.l2d.split .row{max-width:calc(var(--side,300px)*1.5)}
.l2d button,.l2d select,.l2d input[type=text],.l2d input[type=number]{font:inherit;color:var(--ink);
  background:var(--box);border:1px solid var(--line);border-radius:5px;padding:3px 9px;min-height:28px}
.l2d button{cursor:pointer}.l2d button:hover{border-color:var(--key)}
.l2d button.main{background:#1565c0;border-color:#1565c0;color:#fff;min-width:76px;font-weight:600}
.l2d button[aria-pressed=true]{border-color:var(--key);box-shadow:inset 0 0 0 1px var(--key)}
.l2d button.record[aria-pressed=true]{background:#c62828;border-color:#c62828;color:#fff}
.l2d :disabled{opacity:.45;cursor:default}
.l2d label{display:inline-flex;gap:6px;align-items:center;color:var(--soft)}.l2d label.wide{flex:1 1 220px}
.l2d label.wide input{flex:1;min-width:0}.l2d input[type=number]{width:68px}
.l2d input[type=range]{width:110px;accent-color:var(--key)}
.l2d .chips{display:contents}.l2d .chip{display:inline-flex}
.l2d .chip .paint{max-width:180px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;border-radius:5px 0 0 5px}
.l2d .chip .away{border-left:0;border-radius:0 5px 5px 0;padding:3px 7px}
.l2d .status{color:var(--soft);font-size:12px;font-variant-numeric:tabular-nums;flex:1 1 300px}
.l2d .status b{color:var(--ink);font-weight:600}
.l2d .plot{width:180px;height:40px}.l2d .trouble{flex-basis:100%;padding:6px 10px;border-radius:5px;
  background:#c628281c;border-left:4px solid #c62828}.l2d .trouble:empty{display:none}
.l2d a{color:var(--key)}.l2d details{margin-top:8px;max-width:calc(var(--side,300px)*2 + 8px)}
.l2d summary{cursor:pointer;color:var(--soft)}
.l2d .engine{border:0;padding:0;background:none;display:flex;flex-wrap:wrap;gap:6px 12px}
.l2d:fullscreen{width:100%;overflow:auto;border-radius:0;--side:min(48vw,calc(100vh - 230px))!important}
`;

const FORM = `
<div class="stage"><div class="pane in"><canvas class="picture" width="256" height="256" role="img"
  aria-label="camera picture"></canvas><span class="tag">input</span></div>
<div class="pane out"><canvas class="picture" width="256" height="256" role="img"
  aria-label="translated picture"></canvas><span class="tag">output</span><span class="note"></span></div>
<div class="cut" role="slider" aria-label="divider" tabindex="0" aria-valuemin="0" aria-valuemax="100"></div></div>
<div class="row"><button class="main" title="Space">Start</button><button class="snapshot"
  title="S: save the picture as PNG">Snapshot</button><button class="record" title="R: record an mp4"
  aria-pressed="false">Record</button>
<button class="mirror" title="M" aria-pressed="true">Mirror</button><button class="splitter"
  title="V: one picture with a divider" aria-pressed="false">Split</button><button class="full"
  title="F">Full screen</button></div>
<div class="row"><label class="wide">Prompt <input type="text" class="prompt" maxlength="1000"
  placeholder="words, then Enter"></label><label>Style <select class="style"></select></label></div>
<div class="row prompts" role="group" aria-label="row of prompts"><button class="keep"
  title="A: put the present prompt into the row">Keep</button><button class="previous"
  title="P: the prompt before, flowing out of the present one" aria-label="previous prompt">◀</button><button
  class="next" title="N: the next prompt, flowing out of the present one" aria-label="next prompt">▶</button><span
  class="chips"></span><button class="save"
  title="the settings and all changes of prompt as a file, for translate --settings">Save settings</button></div>
<div class="row"><label>Strength <input type="range" class="strength" min="0" max="1" step="0.05"><output
  class="strengthshown"></output></label><label>Steps <input type="number" class="steps" min="1" max="50"></label>
<label>Seed <input type="number" class="seed" min="0"></label><label>Size <select class="size"></select></label><label
  title="how a picture of another shape is brought to it">Fit <select
  class="fit"><option>crop</option><option>pad</option><option>stretch</option></select></label><label
  title="new for every frame, one for all, moving with the picture, or none">Noise <select
  class="noise"><option>fresh</option><option>fixed</option><option>warped</option><option>off</option></select></label>
<label title="less strength while much moves"><input type="checkbox"
  class="motion_strength"> Motion lowers strength</label>
<label title="gives up steps, then size, to hold the target; unticked: pinned"><input type="checkbox"
  class="adaptive"> adaptive</label><label>to <input type="number" class="target" min="1" max="120"> frames/s</label>
<label>View <select class="side"><option value="200">small</option><option value="300" selected>medium</option><option
  value="420">large</option><option value="600">huge</option></select></label></div>
<div class="row"><div class="status" role="status"></div><canvas class="plot" width="360" height="80" role="img"
  aria-label="latency of the last frames"></canvas><div class="trouble" role="alert"></div><span
  class="film"></span></div>
<details class="inside"><summary>Inside the engine</summary><div class="row"><label>Layer <select
  class="layer"></select></label><label>Place <input type="range" class="location" min="0" max="0"
  value="0"></label><span class="where"></span></div>
<div class="engine l2d-figure" role="group"
  aria-label="denoising rows, cache slots and attention weights"></div></details>`;

class View {
  constructor(pump, el) {
    this.pump = pump;
    const root = this.root = document.createElement("div");
    root.className = "l2d"; root.tabIndex = 0; root.innerHTML = FORM;
    const style = document.createElement("style"); style.textContent = STYLE + LOOK;
    el.append(style, root);
    this.$ = Object.fromEntries(["main", "snapshot", "record", "mirror", "splitter", "full", "side", "prompt", "style",
      "strength", "strengthshown", "steps", "seed", "size", "adaptive", "target", "status", "plot", "trouble", "film",
      "inside", "layer", "location", "where", "engine", "cut", "note", "stage", "keep", "previous", "next", "chips",
      "save", "fit", "noise", "motion_strength"].map(name => [name, root.querySelector("." + name)]));
    [this.in, this.out] = root.querySelectorAll("canvas.picture");
    const config = pump.model.get("config"), $ = this.$;
    $.style.add(new Option("(prompt only)", ""));
    for (const name of config.styles) $.style.add(new Option(name, name));
    for (const size of config.sizes) $.size.add(new Option(size, size));
    if (!config.pipeline) for (const name of ["prompt", "style", "strength", "noise", "motion_strength", "steps",
      "seed", "adaptive", "target", "keep", "previous", "next", "save"]) $[name].disabled = true;
    $.inside.hidden = !config.pipeline;
    this.side(config.side);
    this.listen();
    pump.views.add(this);
    this.onInput(); this.copy(this.out, pump.output); this.show();
  }
  listen() {
    const {pump, $, root} = this, toggle = name => () => { pump[name] = !pump[name]; pump.show(); };
    $.main.onclick = () => pump.status.running && (pump.mine || !pump.status.browser) ? pump.stop() : pump.start();
    $.snapshot.onclick = () => this.snapshot();
    $.record.onclick = () => pump.send({kind: "record", on: !pump.status.recording});
    $.mirror.onclick = toggle("mirror");
    $.splitter.onclick = toggle("split");
    $.full.onclick = () => document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen?.();
    $.side.onchange = () => this.side(+$.side.value);
    const send = (name, read) =>
      $[name].addEventListener("change",
        () => { const value = read($[name]); if (value !== null) pump.set(name, value); });
    // what cannot be is refused by the kernel, in a sentence
    const count = e => e.value === "" ? null : +e.value;
    send("prompt", e => e.value);
    $.style.onchange = () => pump.set("style", $.style.value || null);
    send("strength", e => +e.value); send("steps", count); send("seed", count); send("size", e => +e.value);
    send("target", count); send("fit", e => e.value); send("noise", e => e.value);
    send("motion_strength", e => e.checked);
    send("adaptive", e => e.checked); send("layer", e => +e.value); send("location", e => +e.value);
    $.keep.onclick = () => { const prompt = ($.prompt.value || "").trim(); if (prompt) pump.set("keep", prompt); };
    $.next.onclick = () => pump.set("step", 1);
    $.previous.onclick = () => pump.set("step", -1);
    $.save.onclick = () => pump.send({kind: "save"});
    $.strength.oninput = () => $.strengthshown.textContent = (+$.strength.value).toFixed(2);
    $.inside.ontoggle = () => pump.set("engine", [...pump.views].some(view => view.$.inside.open));
    const cut = x => { const box = $.stage.getBoundingClientRect(); this.cut(100 * (x - box.left) / box.width); };
    $.cut.onpointerdown = e => { $.cut.setPointerCapture(e.pointerId); $.cut.onpointermove = e => cut(e.clientX); };
    $.cut.onpointerup = () => $.cut.onpointermove = null;
    $.cut.addEventListener("keydown", e => { const by = {ArrowLeft: -5, ArrowRight: 5}[e.key];
      if (by) { this.cut((this.at ?? 50) + by); e.preventDefault(); } });
    root.addEventListener("keydown", e => {
      e.stopPropagation();                                         // or the notebook takes it
      if (e.ctrlKey || e.metaKey || e.altKey || /^(INPUT|SELECT|BUTTON|SUMMARY)$/.test(e.target.tagName)) {
        if (e.key === "Enter" && e.target === $.prompt) $.prompt.blur();
        return;
      }
      const button = {" ": "main", s: "snapshot", r: "record", m: "mirror", v: "splitter",
        f: "full", a: "keep", n: "next", p: "previous"}[e.key.toLowerCase()];
      if (button) { $[button].click(); e.preventDefault(); }
    });
  }
  side(pixels) { this.root.style.setProperty("--side", pixels + "px"); this.$.side.value = pixels; }
  cut(percent) { this.at = clamp(percent, 0, 100); this.root.style.setProperty("--cut", this.at + "%");
    this.$.cut.ariaValueNow = Math.round(this.at); }
  copy(canvas, from) { if (canvas.width !== from.width || canvas.height !== from.height) { canvas.width = from.width;
    canvas.height = from.height; } if (from.width) canvas.getContext("2d").drawImage(from, 0, 0); }
  onInput() { this.copy(this.in, this.pump.input); }
  onPaint() {
    this.copy(this.out, this.pump.output);
    this.out.dataset.of = this.pump.last; this.out.dataset.painted = this.pump.painted;
    if (this.pump.split || this.pump.shown?.input) this.onInput();
    if (this.$.note.textContent) this.$.note.textContent = "";
  }
  snapshot() {
    this.out.toBlob(blob => {
      const link = document.createElement("a"), url = URL.createObjectURL(blob);
      link.href = url; link.download = `live_${new Date().toISOString().slice(0, 19).replace(/\D/g, "")}.png`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    }, "image/png");
  }
  show() {
    const {pump, $, root} = this, status = pump.status, settings = status.settings, running = status.running;
    const elsewhere = running && status.browser && status.owner && status.owner !== pump.page;
    $.main.textContent = pump.waiting ? "Starting" : elsewhere ? "Take over" : running ? "Stop" : "Start";
    $.record.setAttribute("aria-pressed", !!status.recording);
    $.record.textContent = status.recording ? "Stop recording" : "Record";
    $.record.disabled = !running && !status.recording;
    $.mirror.setAttribute("aria-pressed", !!pump.mirror); $.splitter.setAttribute("aria-pressed", !!pump.split);
    root.classList.toggle("split", !!pump.split);
    for (const name of ["prompt", "style", "strength", "steps", "seed", "size", "target", "fit", "noise"])
      if (settings[name] !== undefined && document.activeElement !== $[name]) $[name].value = settings[name] ?? "";
    if (settings.size && $.size.value === "") { $.size.add(new Option(settings.size, settings.size));
      $.size.value = settings.size; }
    this.row(settings.prompts || [], settings.prompt);
    $.adaptive.checked = !!settings.adaptive; $.motion_strength.checked = !!settings.motion_strength;
    $.strengthshown.textContent = (+$.strength.value).toFixed(2);
    if (status.size) root.style.setProperty("--shape", status.size[0] / status.size[1]);
    $.note.textContent = document.hidden && running ? "paused: this tab is hidden" : running ? pump.note :
      pump.waiting ? "asking the kernel" : pump.painted ? "stopped" : "press Start";
    $.trouble.textContent = pump.trouble || status.error || "";
    const counts = status.counts || {},
      parts = Object.entries(status.parts || {}).map(([k, v]) => `${k} ${v.toFixed(0)}`).join(", ");
    const dropped = (counts.replaced || 0) + (counts.refused || 0) + (counts.failed || 0) + pump.lost;
    const line = [`<b>${pump.fps.toFixed(1)}</b> frames/s`,
      `latency p50 <b>${percentile(pump.latencies, .5).toFixed(0)}</b>, p95 ` +
      `<b>${percentile(pump.latencies, .95).toFixed(0)}</b> ms`,
      `dropped ${dropped}, camera ahead ${pump.skipped}`,
        `work ${(status.work || 0).toFixed(0)} ms${parts ? ` (${parts})` : ""}`, status.quality, status.device,
        status.memory && `${status.memory} MB`, `over the ${pump.wire.name}`,
        ...(status.outlets || []).map(name => name.replace(/[<&]/g, ""))];
    $.status.innerHTML = line.filter(Boolean).join(" · ");
    if (pump.film && $.film.dataset.name !== pump.film.name) {
      $.film.dataset.name = pump.film.name; $.film.textContent = "";
      const link = document.createElement("a"); link.href = pump.film.url;
      link.download = pump.film.name; link.textContent = pump.film.name;
      $.film.append(pump.film.url ? link : pump.film.name, ` ${pump.film.text}`);
    }
    this.plot();
  }
  // buttons are made anew only where the row is another one
  row(prompts, present) {
    const {$, pump} = this, names = JSON.stringify(prompts);
    if ($.chips.dataset.row !== names) {
      $.chips.dataset.row = names; $.chips.textContent = "";
      prompts.forEach((prompt, n) => {
        const chip = document.createElement("span"), paint = document.createElement("button"),
          away = document.createElement("button");
        chip.className = "chip"; paint.className = "paint"; paint.textContent = paint.title = prompt;
        away.className = "away"; away.textContent = "×";
        away.title = "take it out of the row (Delete)"; away.ariaLabel = `take out: ${prompt}`;
        paint.onclick = () => pump.set("at", n);
        away.onclick = () => pump.set("drop", prompt);
        paint.onkeydown = e => { if (e.key === "Delete") pump.set("drop", prompt); };
        chip.append(paint, away); $.chips.append(chip);
      });
    }
    [...$.chips.children].forEach((chip, n) => chip.firstChild.setAttribute("aria-pressed", prompts[n] === present));
    $.next.disabled = $.previous.disabled = !prompts.length;
  }
  plot() {
    const {plot} = this.$, draw = plot.getContext("2d"),
      values = this.pump.latencies.slice(-120), {width, height} = plot;
    const ink = getComputedStyle(this.root), top = Math.max(100, Math.ceil(Math.max(0, ...values) / 100) * 100);
    draw.clearRect(0, 0, width, height);
    draw.font = "18px sans-serif"; draw.fillStyle = draw.strokeStyle = ink.getPropertyValue("--soft") || "#888";
    draw.fillText(`${top} ms`, 2, 18); draw.globalAlpha = .4;
    draw.strokeRect(.5, .5, width - 1, height - 1); draw.globalAlpha = 1;
    draw.strokeStyle = ink.getPropertyValue("--key") || "#1976d2"; draw.lineWidth = 3;
    draw.beginPath(); values.forEach((v, i) => draw.lineTo(i * width / 119, height - 3 - (height - 6) * v / top));
    draw.stroke();
  }
  drawEngine() {
    const {$, pump} = this, {engine} = $, state = pump.engine;
    if (!state || !$.inside.open) return;
    if (state.layers && $.layer.options.length !== state.layers) { $.layer.textContent = "";
      for (let i = 0; i < state.layers; i++) $.layer.add(new Option(i, i)); $.layer.value = state.layer; }
    if (state.locations) { $.location.max = state.locations - 1;
      $.where.textContent = `place ${state.location} of ${state.locations}`; }
    engine.replaceChildren(...state.rows.map((row, k) =>
      rowCard(row && {...row, holds: row.frames.map((frame, j) => row.visible[j] ? frame : null)}, k,
      {window: state.window, warmup: state.warmup, lit: null, title: `t = ${state.timesteps[k]}`, pick: () => {}})));
  }
  close() {
    this.pump.views.delete(this);
    if (this.$.inside.open && ![...this.pump.views].some(view => view.$.inside.open)) this.pump.set("engine", false);
  }
}

export default () => {
  let pump = null;
  return {
    initialize({model}) { pump = new Pump(model); return () => pump.close(); },
    render({el}) { const view = new View(pump, el); return () => view.close(); },
  };
};

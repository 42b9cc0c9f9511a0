// The front end of lama_minimal.widgets: MaskPainter and LiveInpainter. One module, no dependency, nothing is fetched.
//
// Raster   the mask as pixels; the same arithmetic as rasterise() in widgets.py, so that both agree to the pixel
// Strokes  one for each model: the list of strokes, what may be redone, and the conversation with the kernel
// View     one for each place where the widget is shown: toolbar, pointer, keyboard, zoom
//
// Coordinates are pixels of the full picture everywhere but inside Raster, which may be smaller by `scale`.

const UNDO_BYTES = 64e6; // what strokes covered is kept up to this sum; older ones are undone by painting all again
const MANY_POINTS = 300; // from here on, the points of one stroke lie farther and farther apart: it stays below 20 kB
const UPLOAD_BYTES = 8e6; // Jupyter's servers take 10 MB in one message
const STEP = 8; // of the keyboard's brush, CSS pixels; five times as much with Shift

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const tenth = (value) => Math.round(value * 10) / 10;

// ------------------------------------------------------------------------------------------------------------ raster

class Raster {
  constructor(width, height, scale) {
    Object.assign(this, { width, height, scale });
    this.words = new Uint32Array(Math.ceil((width * height) / 4)); // the same memory as `pixels`, four at a time
    this.pixels = new Uint8Array(this.words.buffer, 0, width * height);
    this.kept = new Uint8Array(width * height); // as it was after the last finished stroke
    this.reset();
  }

  reset() {
    this.pixels.fill(0);
    this.kept.fill(0);
    this.area = 0; // pixels in the hole
    this.patches = []; // for each stroke, what it covered; `bytes` is null where that became too much
    this.changed = null; // rectangle that differs from `kept`: [left, top, right, bottom]
    this.dirty = [0, 0, this.width, this.height]; // rectangle that is to be shown
  }

  touch(left, top, right, bottom) {
    if (left >= right || top >= bottom) return;
    const join = (box) =>
      box
        ? [Math.min(box[0], left), Math.min(box[1], top), Math.max(box[2], right), Math.max(box[3], bottom)]
        : [left, top, right, bottom];
    this.changed = join(this.changed);
    this.dirty = join(this.dirty);
  }

  // Pixels whose centres lie between two coordinates, as [first, one past the last].
  span(start, stop, length) {
    const first = clamp(Math.ceil(Math.min(start, stop) - 0.5), 0, length);
    return [first, clamp(Math.floor(Math.max(start, stop) - 0.5) + 1, first, length)];
  }

  // What a disc sweeps from a to b is convex: one span of pixels in each row.
  sweep(a, b, size, value) {
    const { width, height, scale, pixels } = this;
    const ax = a[0] * scale, ay = a[1] * scale, bx = b[0] * scale, by = b[1] * scale;
    const radius = (size / 2) * scale, dx = bx - ax, dy = by - ay;
    const length = Math.sqrt(dx * dx + dy * dy);
    const acrossX = (-dy * radius) / length, acrossY = (dx * radius) / length;
    const [top, bottom] = this.span(Math.min(ay, by) - radius, Math.max(ay, by) + radius, height);
    let left = width, right = 0;
    for (let row = top; row < bottom; row++) {
      const y = row + 0.5;
      let first = Infinity, last = -Infinity;
      const include = (low, high) => { if (low < first) first = low; if (high > last) last = high; };
      const halfA = Math.sqrt(radius * radius - (y - ay) * (y - ay));
      const halfB = Math.sqrt(radius * radius - (y - by) * (y - by));
      if (halfA >= 0) include(ax - halfA, ax + halfA); // not for NaN: the row misses the disc
      if (halfB >= 0) include(bx - halfB, bx + halfB);
      for (let side = 1; side >= -1; side -= 2) {
        const along = (y - (ay + side * acrossY)) / dy;
        if (along >= 0 && along <= 1) {
          const x = ax + side * acrossX + along * dx;
          include(x, x);
        }
      }
      const from = Math.max(Math.ceil(first - 0.5), 0), to = Math.min(Math.floor(last - 0.5) + 1, width);
      if (from >= to) continue;
      pixels.fill(value, row * width + from, row * width + to);
      if (from < left) left = from;
      if (to > right) right = to;
    }
    this.touch(left, top, right, bottom);
  }

  box([x0, y0], [x1, y1]) {
    const [left, right] = this.span(x0 * this.scale, x1 * this.scale, this.width);
    const [top, bottom] = this.span(y0 * this.scale, y1 * this.scale, this.height);
    for (let row = top; row < bottom; row++) this.pixels.fill(1, row * this.width + left, row * this.width + right);
    this.touch(left, top, right, bottom);
  }

  // A whole mask: lengths of runs at the full picture's size, known and hole in turn.
  runs(lengths, fullWidth, fullHeight) {
    const same = fullWidth === this.width && fullHeight === this.height;
    const full = same ? this.pixels : new Uint8Array(fullWidth * fullHeight);
    let at = 0;
    lengths.forEach((length, index) => full.fill(index % 2, at, (at += length)));
    if (!same) {
      for (let row = 0, to = 0; row < this.height; row++) {
        const from = Math.min(Math.floor((row + 0.5) / this.scale), fullHeight - 1) * fullWidth;
        for (let column = 0; column < this.width; column++, to++) {
          this.pixels[to] = full[from + Math.min(Math.floor((column + 0.5) / this.scale), fullWidth - 1)];
        }
      }
    }
    this.touch(0, 0, this.width, this.height);
  }

  apply(stroke, fullWidth, fullHeight) {
    const { tool, size, points } = stroke;
    if (tool === "box") this.box(...points);
    else if (tool === "mask") this.runs(stroke.runs, fullWidth, fullHeight);
    else if (tool === "brush" || tool === "eraser") {
      for (let i = 0; i < Math.max(1, points.length - 1); i++) {
        this.sweep(points[i], points[i + 1] ?? points[i], size, tool === "brush" ? 1 : 0);
      }
    } else {
      const words = this.words;
      if (tool === "clear") words.fill(0);
      else for (let i = 0; i < words.length; i++) words[i] ^= 0x01010101;
      this.touch(0, 0, this.width, this.height);
    }
  }

  // The stroke is finished: remember what it covered.
  commit() {
    const [left, top, right, bottom] = this.changed ?? [0, 0, 0, 0];
    const bytes = new Uint8Array((right - left) * (bottom - top)), area = this.area;
    for (let row = top, to = 0; row < bottom; row++, to += right - left) {
      const now = this.pixels.subarray(row * this.width + left, row * this.width + right);
      const then = this.kept.subarray(row * this.width + left, row * this.width + right);
      for (let i = 0; i < now.length; i++) this.area += now[i] - then[i];
      bytes.set(then, to);
      then.set(now);
    }
    this.patches.push({ box: [left, top, right, bottom], bytes, area });
    this.changed = null;
    let sum = 0;
    for (let i = this.patches.length - 1; i >= 0; i--) {
      sum += this.patches[i].bytes?.length ?? 0;
      if (sum > UNDO_BYTES) this.patches[i].bytes = null;
    }
  }

  // The stroke is given up.
  cancel() {
    if (!this.changed) return;
    const [left, top, right, bottom] = this.changed;
    for (let row = top; row < bottom; row++) {
      const at = row * this.width + left;
      this.pixels.set(this.kept.subarray(at, at + right - left), at);
    }
    this.touch(left, top, right, bottom);
    this.changed = null;
  }

  // Take back the last stroke; false where that has to be done by painting the others again.
  undo() {
    if (!this.patches.at(-1)?.bytes) return false;
    const { box: [left, top, right, bottom], bytes, area } = this.patches.pop();
    for (let row = top, from = 0; row < bottom; row++, from += right - left) {
      const before = bytes.subarray(from, from + right - left);
      this.pixels.set(before, row * this.width + left);
      this.kept.set(before, row * this.width + left);
    }
    this.touch(left, top, right, bottom);
    this.changed = null;
    this.area = area;
    return true;
  }

  // Show what is dirty, in strips that need little memory.
  show(context, colour) {
    if (!this.dirty) return;
    const [left, top, right, bottom] = this.dirty;
    const width = right - left, strip = Math.max(1, Math.floor(5e5 / width));
    const ink = new Uint32Array(new Uint8Array([...colour, 255]).buffer)[0];
    for (let row = top; row < bottom; row += strip) {
      const image = new ImageData(width, Math.min(strip, bottom - row));
      const out = new Uint32Array(image.data.buffer);
      for (let y = 0, to = 0; y < image.height; y++) {
        const from = (row + y) * this.width + left;
        for (let x = 0; x < width; x++, to++) if (this.pixels[from + x]) out[to] = ink;
      }
      context.putImageData(image, left, row);
    }
    this.dirty = null;
  }
}

// ----------------------------------------------------------------------------------------------------------- strokes

class Strokes {
  constructor(model) {
    this.model = model;
    this.views = new Set();
    this.serial = 0;
    this.waiting = null; // serial of the change whose filling is awaited
    this.message = "";
    this.load();
    model.on("change:_snapshot", () => {
      this.load();
      this.views.forEach((view) => view.replay());
    });
    model.on("change:_fill", () => this.views.forEach((view) => view.showFill()));
    model.on("msg:custom", (message, buffers) => this.receive(message, buffers));
  }

  load() {
    const { epoch, strokes } = this.model.get("_snapshot");
    Object.assign(this, { epoch, list: [...strokes], redoable: [], waiting: null });
  }

  append(stroke, origin = null, redoable = []) {
    this.send({ op: "append", stroke });
    this.list.push(stroke);
    this.redoable = redoable;
    this.views.forEach((view) => view.added(stroke, view === origin));
  }

  undo() {
    if (!this.list.length) return;
    this.send({ op: "undo" });
    const stroke = this.list.pop();
    this.redoable.push(stroke);
    this.views.forEach((view) => view.removed(stroke));
  }

  redo() {
    if (this.redoable.length) this.append(this.redoable.pop(), null, this.redoable);
  }

  // Only what is new travels; the kernel compares epoch and place with its own list.
  send(change) {
    this.message = "";
    this.waiting = ++this.serial;
    this.model.send({ ...change, epoch: this.epoch, at: this.list.length, serial: this.serial });
  }

  async upload(file) {
    if (file.size > UPLOAD_BYTES) {
      this.say(`${file.name} is larger than ${UPLOAD_BYTES / 1e6} MB: load it in Python, painter.mask = "${file.name}"`);
    } else {
      this.model.send({ op: "import" }, undefined, [await file.arrayBuffer()]);
    }
  }

  download(what) {
    this.say("Waiting for the kernel …");
    this.model.send({ op: "download", what });
  }

  receive(message, buffers) {
    if (message.op === "error") this.say(message.text);
    if (message.op !== "download") return;
    this.say("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([buffers[0]], { type: "image/png" }));
    link.download = message.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60e3);
  }

  say(text) {
    this.message = text;
    this.views.forEach((view) => view.update());
  }
}

// -------------------------------------------------------------------------------------------------------------- view

const ICONS = {
  brush: '<path d="M20.5 3.5c-5 2-8.5 5.5-10.5 9l2 2c3.5-2 7-5.5 9-10.500z"/><path d="M9 13.500c-2.5 0-3.5 2-3.5 3.800 0 1.200-.8 2.200-2 2.700 3.5 1 8-.2 8-4"/>',
  eraser: '<path d="M8 19.500h12M5 14.500l9.5-9.500a1.5 1.5 0 0 1 2 0l3.5 3.500a1.5 1.5 0 0 1 0 2l-9 9h-2.500l-3.5-3a1.5 1.5 0 0 1 0-2zM10.5 9l5.5 5.5"/>',
  box: '<rect x="4" y="5.5" width="16" height="13" rx="1" stroke-dasharray="3.5 2.5"/>',
  undo: '<path d="M8.5 5l-4.5 4.5 4.5 4.500M4.5 9.500h9a5.5 5.5 0 0 1 0 11h-3"/>',
  redo: '<path d="M15.5 5l4.5 4.5-4.5 4.500M19.5 9.500h-9a5.5 5.5 0 0 0 0 11h3"/>',
  invert: '<circle cx="12" cy="12" r="8"/><path d="M12 4a8 8 0 0 1 0 16z" fill="currentColor"/>',
  clear: '<path d="M4.5 6.500h15M9.5 6.500v-2.500h5v2.500M6.5 6.500l1 13.500h9l1-13.500M10.5 10.500v6M13.5 10.500v6"/>',
  zoomOut: '<path d="M5.5 12h13"/>',
  zoomIn: '<path d="M5.5 12h13M12 5.500v13"/>',
  fit: '<path d="M4 9v-5h5M15 4h5v5M20 15v5h-5M9 20h-5v-5"/>',
  eye: '<path d="M2.5 12c2.5-4.5 5.800-6.5 9.5-6.500s7 2 9.5 6.500c-2.5 4.5-5.800 6.5-9.5 6.500s-7-2-9.5-6.500z"/><circle cx="12" cy="12" r="3"/>',
  upload: '<path d="M12 15.500v-11M7.5 8.500l4.5-4.5 4.5 4.500M4.5 15.500v4.500h15v-4.5"/>',
  download: '<path d="M12 4v11M7.5 11l4.5 4.5 4.5-4.500M4.5 15.500v4.500h15v-4.5"/>',
  save: '<path d="M4.5 4.500h12l3 3v12h-15zM8 4.500v5h7v-5M8 19.500v-6h8v6"/>',
  divide: '<path d="M9 7l-5 5 5 5M15 7l5 5-5 5"/>',
  help: '<path d="M9 9.200a3 3 0 1 1 4.300 2.700c-.9.5-1.300 1-1.300 2.100"/><path d="M12 17.200v.3"/><circle cx="12" cy="12" r="9"/>',
};

const SHORTCUTS = [
  ["B  E  R", "brush, eraser, box (rectangle)"],
  ["[  ]", "smaller, larger brush"],
  ["Ctrl Z", "undo; with Shift, or Ctrl Y: redo"],
  ["I", "invert"],
  ["Delete", "clear"],
  ["Wheel  +  −", "zoom (the wheel with Ctrl where the picture was not clicked yet)"],
  ["Space + drag", "move the picture; also the middle button"],
  ["0", "fit the picture"],
  ["M", "show or hide the mask"],
  ["Arrows, Enter", "move the brush, put it down and lift it; Escape gives up"],
  ["Two fingers", "zoom and move"],
];

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function button(icon, label, act, attributes = {}) {
  const node = element("button", { type: "button", title: label, "aria-label": label, onclick: act, ...attributes });
  node.innerHTML = `<svg viewBox="0 0 24 24" aria-hidden="true">${ICONS[icon]}</svg>`;
  return node;
}

const group = (...children) => element("div", { class: "lama-group", role: "group" }, ...children);

class View {
  constructor(strokes, model) {
    this.strokes = strokes;
    this.model = model;
    Object.assign(this, model.get("_settings")); // width, height, colour, opacity, live
    this.tool = "brush";
    this.largest = Math.max(2, Math.round(Math.max(this.width, this.height) / 2));
    this.size = clamp(Math.round(Math.max(this.width, this.height) / 20), 1, this.largest);
    this.zoom = 1; // CSS pixels for a pixel of the picture
    this.offset = [0, 0]; // of the picture's corner in the stage, CSS pixels
    this.fitted = true;
    this.maskShown = true;
    this.pointers = new Map(); // fingers and buttons that are down: id → [x, y] in the stage, CSS pixels
    this.stroke = null; // what is being painted
    this.pen = [this.width / 2, this.height / 2]; // where the keyboard's brush is
    this.urls = [];
    this.build();
    this.listen();
  }

  async start() {
    const photo = this.address(this.model.get("_photo"));
    this.photo.src = photo;
    await this.photo.decode();
    const { naturalWidth, naturalHeight } = this.photo;
    Object.assign(this.canvas, { width: naturalWidth, height: naturalHeight });
    this.context = this.canvas.getContext("2d");
    this.raster = new Raster(naturalWidth, naturalHeight, naturalWidth / this.width);
    this.strokes.views.add(this);
    this.replay();
    this.layout();
    if (this.live) await this.showFill();
    this.root.dataset.ready = "true";
  }

  address(bytes) {
    this.urls.push(URL.createObjectURL(new Blob([bytes])));
    return this.urls.at(-1);
  }

  close() {
    this.strokes.views.delete(this);
    this.watcher.disconnect();
    this.urls.forEach((url) => URL.revokeObjectURL(url));
  }

  // ------------------------------------------------------------------------------------------------- what one sees

  build() {
    const tool = (name, key) => button(name, `${name[0].toUpperCase()}${name.slice(1)} (${key})`, () => this.choose(name));
    this.tools = { brush: tool("brush", "B"), eraser: tool("eraser", "E"), box: tool("box", "R") };
    this.slider = element("input", {
      type: "range", min: 0, max: 100, step: 0.5, "aria-label": "Brush size", title: "Brush size ( [ and ] )",
      oninput: () => this.resize(Math.round(this.largest ** (this.slider.value / 100))),
    });
    this.sizeText = element("output", { class: "lama-size" });
    this.undoButton = button("undo", "Undo (Ctrl Z)", () => this.strokes.undo());
    this.redoButton = button("redo", "Redo (Ctrl Shift Z)", () => this.strokes.redo());
    this.eye = button("eye", "Show the mask (M)", () => this.showMask(!this.maskShown));
    this.file = element("input", { type: "file", accept: "image/*", hidden: "", "aria-hidden": "true" });
    this.file.addEventListener("change", () => {
      if (this.file.files[0]) this.strokes.upload(this.file.files[0]);
      this.file.value = "";
    });
    this.helpButton = button("help", "Keys and gestures (?)", () => this.toggleHelp(), { "aria-expanded": "false" });
    const bar = element(
      "div", { class: "lama-bar", role: "toolbar", "aria-label": "Mask painter" },
      group(...Object.values(this.tools)),
      element("label", { class: "lama-sizes" }, this.slider, this.sizeText),
      element("div", { class: "lama-group lama-steps", role: "group" }, this.undoButton, this.redoButton),
      group(
        button("invert", "Invert (I)", () => this.whole("invert")),
        button("clear", "Clear (Delete)", () => this.whole("clear")),
        this.eye,
      ),
      group(
        button("zoomOut", "Zoom out (−)", () => this.zoomBy(1 / 1.5), { class: "lama-wide" }),
        button("fit", "Fit (0)", () => this.fit()),
        button("zoomIn", "Zoom in (+)", () => this.zoomBy(1.5), { class: "lama-wide" }),
      ),
      element("span", { class: "lama-space lama-wide" }),
      group(
        button("upload", "Open a mask from a file", () => this.file.click()),
        button("download", "Download the mask (PNG)", () => this.strokes.download("mask")),
        this.helpButton,
      ),
    );
    this.photo = element("img", { class: "lama-photo", alt: "", draggable: "false" });
    this.after = element("div", { class: "lama-after" });
    this.canvas = element("canvas", { class: "lama-mask", style: `opacity: ${this.opacity}` });
    this.layers = element(
      "div", { class: "lama-layers", style: `width: ${this.width}px; height: ${this.height}px` },
      this.photo, this.after, this.canvas,
    );
    this.ring = element("div", { class: "lama-ring", hidden: "" });
    this.band = element("div", { class: "lama-band", hidden: "" });
    this.divider = element("div", { class: "lama-divider", hidden: "" }, element("div"));
    this.divider.firstChild.innerHTML = `<svg viewBox="0 0 24 24" aria-hidden="true">${ICONS.divide}</svg>`;
    this.help = element("div", { class: "lama-help", role: "dialog", "aria-label": "Keys and gestures", hidden: "" });
    this.help.append(element("dl", {}, ...SHORTCUTS.flatMap(([keys, text]) => [element("dt", {}, keys), element("dd", {}, text)])));
    this.busy = element("div", { class: "lama-busy", hidden: "" }, element("i"), "Filling …");
    this.stage = element(
      "div",
      {
        class: "lama-stage", tabindex: 0, role: "application",
        "aria-label": `Mask over a picture of ${this.width} by ${this.height} pixels. ` +
          "Arrow keys move the brush, Enter puts it down and lifts it, question mark lists all keys.",
      },
      this.layers, this.divider, this.band, this.ring, this.busy, this.help,
    );
    this.said = element("span", { class: "lama-said", role: "status", "aria-live": "polite" });
    this.facts = element("span", { class: "lama-facts" });
    this.root = element("div", { class: "lama-painter", "data-lm-suppress-shortcuts": "true" }, bar, this.stage);
    this.root.style.setProperty("--lama-ink", `rgb(${this.colour.join(" ")})`);
    if (this.live) this.root.append(this.buildCompare());
    this.root.append(element("div", { class: "lama-status" }, this.said, this.facts), this.file);
  }

  buildCompare() {
    this.split = element("input", {
      type: "range", min: 0, max: 100, step: 0.5, value: 0, disabled: "",
      "aria-label": "Border between before and after, percent from the left", oninput: () => this.place(),
    });
    this.save = button("save", "Download the filled picture (PNG)", () => this.strokes.download("picture"), { disabled: "" });
    this.save.append("Save");
    return element("div", { class: "lama-compare" }, element("span", {}, "Before"), this.split, element("span", {}, "After"), this.save);
  }

  choose(tool) {
    this.tool = tool;
    this.update();
  }

  resize(size) {
    this.size = clamp(size, 1, this.largest);
    this.update();
  }

  showMask(shown) {
    this.maskShown = shown;
    this.update();
  }

  toggleHelp() {
    this.help.hidden = !this.help.hidden;
    this.helpButton.setAttribute("aria-expanded", String(!this.help.hidden));
  }

  update() {
    for (const [name, node] of Object.entries(this.tools)) node.setAttribute("aria-pressed", String(name === this.tool));
    this.stage.dataset.tool = this.tool;
    this.slider.value = (100 * Math.log(this.size)) / Math.log(this.largest);
    this.slider.setAttribute("aria-valuetext", `${this.size} pixels`);
    this.sizeText.value = `${this.size} px`;
    this.undoButton.disabled = !this.strokes.list.length;
    this.redoButton.disabled = !this.strokes.redoable.length;
    this.eye.setAttribute("aria-pressed", String(this.maskShown));
    this.canvas.classList.toggle("lama-hidden", !this.maskShown);
    const fill = this.live ? this.model.get("_fill") : {};
    const late = this.strokes.waiting !== null && fill.serial !== this.strokes.waiting;
    this.busy.hidden = !this.live || !this.raster?.area || !(late || fill.state === "busy");
    let said = this.strokes.message;
    if (!said && this.live && !late) {
      if (fill.state === "done") said = `Filled in ${fill.seconds.toFixed(fill.seconds < 10 ? 1 : 0)} s`;
      if (fill.state === "error") said = fill.error;
      if (fill.state === "empty") said = "Paint over what shall go";
    }
    this.said.textContent = said;
    this.said.classList.toggle("lama-error", !late && fill.state === "error");
    const share = this.raster ? (100 * this.raster.area) / this.raster.pixels.length : 0;
    this.facts.textContent =
      `${this.width} × ${this.height}  ·  ${share.toFixed(share < 10 ? 1 : 0)} % masked  ·  ${Math.round(100 * this.zoom)} %`;
  }

  // What changed; the canvas itself inverts and clears faster than pixels can be copied to it.
  show(stroke = null) {
    const { width, height } = this.canvas;
    if (stroke?.tool === "invert" || stroke?.tool === "clear") {
      this.context.globalCompositeOperation = stroke.tool === "invert" ? "source-out" : "destination-out";
      this.context.fillStyle = `rgb(${this.colour.join(" ")})`;
      this.context.fillRect(0, 0, width, height);
      this.context.globalCompositeOperation = "source-over";
      this.raster.dirty = null;
    } else {
      this.raster.show(this.context, this.colour);
    }
  }

  // What the kernel filled, over the photograph; the slider says from where on it is seen.
  async showFill() {
    const fill = this.model.get("_fill");
    const done = fill.state === "done";
    if (done) {
      const [x, y, width, height] = fill.box;
      const url = this.address(fill.picture);
      const image = element("img", { alt: "", style: `left: ${x}px; top: ${y}px; width: ${width}px; height: ${height}px` });
      image.src = url;
      await image.decode();
      if (this.model.get("_fill") !== fill) return;
      this.urls.slice(1, -1).forEach((old) => URL.revokeObjectURL(old)); // all but the photograph and this one
      this.urls = [this.urls[0], url];
      this.after.replaceChildren(image);
      if (!this.stroke && (this.strokes.waiting === null || this.strokes.waiting === fill.serial)) this.maskShown = false;
    } else if (fill.state === "empty") {
      this.after.replaceChildren();
    }
    this.split.disabled = this.save.disabled = !done;
    this.place();
    this.update();
  }

  // ------------------------------------------------------------------------------------------------- strokes change

  added(stroke, drawn) {
    if (!drawn) {
      this.abandon();
      this.raster.apply(stroke, this.width, this.height);
    }
    this.raster.commit();
    this.maskShown = true;
    this.show(stroke);
    this.update();
  }

  removed(stroke) {
    this.abandon();
    this.maskShown = true;
    if (!this.raster.undo()) return this.replay();
    this.show(stroke.tool === "invert" ? stroke : null); // its own opposite
    this.update();
  }

  replay() {
    this.abandon();
    this.raster.reset();
    for (const stroke of this.strokes.list) {
      this.raster.apply(stroke, this.width, this.height);
      this.raster.commit();
    }
    this.raster.dirty = [0, 0, this.raster.width, this.raster.height];
    this.maskShown = true;
    this.show();
    this.update();
  }

  whole(tool) {
    if (!this.stroke) this.strokes.append({ tool });
  }

  // -------------------------------------------------------------------------------------------------------- painting

  begin(point, tool = this.tool) {
    const start = performance.now();
    this.stroke = { tool, size: this.size, points: [point.map(tenth)] };
    this.spent = 0;
    this.maskShown = true;
    this.canvas.classList.remove("lama-hidden");
    if (tool === "box") this.stroke.points.push(this.stroke.points[0]);
    else this.raster.sweep(this.stroke.points[0], this.stroke.points[0], this.size, tool === "brush" ? 1 : 0);
    this.show();
    this.place();
    this.spent += performance.now() - start;
  }

  // Points closer than a pixel and a half of the screen add nothing.
  extend(points, last = false) {
    const start = performance.now();
    const { tool, size, points: taken } = this.stroke;
    for (const point of points.map((each) => each.map(tenth))) {
      const [x, y] = taken.at(-1);
      const apart = Math.hypot(point[0] - x, point[1] - y);
      if (tool === "box") taken[1] = point;
      else if (apart >= (1.5 / this.zoom) * 2 ** Math.floor(taken.length / MANY_POINTS) || (last && apart > 0)) {
        this.raster.sweep(taken.at(-1), point, size, tool === "brush" ? 1 : 0);
        taken.push(point);
      }
    }
    this.show();
    if (tool === "box") this.place();
    this.spent += performance.now() - start;
  }

  finish() {
    if (!this.stroke) return;
    const start = performance.now();
    const { tool, size, points } = this.stroke;
    this.stroke = null;
    if (tool === "box") this.raster.box(...points);
    this.strokes.append(tool === "box" ? { tool, points } : { tool, size, points }, this);
    this.place();
    performance.mark("lama-stroke", { detail: { tool, points: points.length, spent: this.spent + performance.now() - start } });
  }

  abandon() {
    if (!this.stroke) return;
    this.stroke = null;
    this.raster.cancel();
    this.show();
    this.place();
  }

  // ------------------------------------------------------------------------------------------------- zoom and place

  layout() {
    const width = this.stage.clientWidth;
    if (!width) return;
    const tall = clamp((width * this.height) / this.width, 200, Math.max(240, Math.min(0.6 * window.innerHeight, 720)));
    this.stage.style.height = `${Math.round(tall)}px`;
    if (this.fitted) this.fit();
    else this.moveTo(this.zoom, ...this.offset);
  }

  fit() {
    const { clientWidth: width, clientHeight: height } = this.stage;
    const zoom = Math.min(width / this.width, height / this.height);
    this.moveTo(zoom, (width - this.width * zoom) / 2, (height - this.height * zoom) / 2);
    this.fitted = true;
    this.update();
  }

  // The point of the picture under (x, y) stays where it is.
  zoomBy(factor, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    const zoom = this.zoomWithin(this.zoom * factor);
    const [left, top] = this.offset;
    this.moveTo(zoom, x - ((x - left) * zoom) / this.zoom, y - ((y - top) * zoom) / this.zoom);
  }

  zoomWithin(zoom) {
    const fit = Math.min(this.stage.clientWidth / this.width, this.stage.clientHeight / this.height);
    return clamp(zoom, fit / 2, Math.max(32, fit * 4));
  }

  // A quarter of the stage keeps showing the picture.
  moveTo(zoom, x, y) {
    const within = (at, stage, side) => clamp(at, Math.min(stage / 4, stage - side * zoom) - Math.min(side * zoom, stage) / 2, (stage * 3) / 4);
    this.zoom = zoom;
    this.offset = [within(x, this.stage.clientWidth, this.width), within(y, this.stage.clientHeight, this.height)];
    this.fitted = false;
    this.layers.style.transform = `translate(${this.offset[0]}px, ${this.offset[1]}px) scale(${zoom})`;
    this.layers.classList.toggle("lama-pixels", zoom > 2.5 * (this.raster?.scale ?? 1));
    this.place();
    this.update();
  }

  toPicture([x, y]) {
    return [(x - this.offset[0]) / this.zoom, (y - this.offset[1]) / this.zoom];
  }

  toStage([x, y]) {
    return [x * this.zoom + this.offset[0], y * this.zoom + this.offset[1]];
  }

  inStage(event) {
    const { left, top } = this.stage.getBoundingClientRect();
    return [event.clientX - left - this.stage.clientLeft, event.clientY - top - this.stage.clientTop];
  }

  // Put ring, rubber band and divider where they belong.
  place() {
    const put = (node, left, top, width, height) =>
      Object.assign(node.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
    this.ring.hidden = !this.ringAt || this.tool === "box";
    if (this.ringAt) {
      const side = this.size * this.zoom;
      put(this.ring, this.ringAt[0] - side / 2, this.ringAt[1] - side / 2, side, side);
    }
    this.band.hidden = this.stroke?.tool !== "box";
    if (!this.band.hidden) {
      const [[x0, y0], [x1, y1]] = this.stroke.points.map((point) => this.toStage(point));
      put(this.band, Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0));
    }
    if (!this.live) return;
    const share = this.split.value / 100; // of the picture's width that shows what was before
    this.after.style.clipPath = `inset(0 0 0 ${100 * share}%)`;
    this.divider.hidden = this.split.disabled || this.stroke !== null;
    const [x, y] = this.toStage([share * this.width, 0]);
    put(this.divider, x - 1, y, 2, this.height * this.zoom);
  }

  // ------------------------------------------------------------------------------------------- pointer and keyboard

  listen() {
    const on = (node, name, act, options) => node.addEventListener(name, act.bind(this), options);
    on(this.stage, "pointerdown", this.down);
    on(this.stage, "pointermove", this.move);
    on(this.stage, "pointerup", this.up);
    on(this.stage, "pointercancel", this.lost);
    on(this.stage, "pointerleave", this.leave);
    on(this.divider, "pointerdown", this.slide);
    on(this.divider, "pointermove", this.slide);
    on(this.stage, "wheel", this.wheel, { passive: false });
    on(this.root, "keydown", this.key);
    on(this.root, "keyup", (event) => {
      if (event.code === "Space") this.stage.classList.toggle("lama-grab", (this.space = false));
    });
    on(this.stage, "blur", () => this.stage.classList.toggle("lama-grab", (this.space = false)));
    this.watcher = new ResizeObserver(() => this.layout());
    this.watcher.observe(this.root);
  }

  down(event) {
    if (!this.raster || this.help.contains(event.target)) return;
    const erasing = event.pointerType === "pen" && event.buttons & 32; // the other end of a pen
    if (event.button > 1 && !erasing) return;
    event.preventDefault();
    this.stage.focus({ preventScroll: true });
    if (!this.help.hidden) this.toggleHelp();
    this.stage.setPointerCapture(event.pointerId);
    const at = this.inStage(event);
    this.pointers.set(event.pointerId, at);
    if (this.pointers.size > 1) {
      this.abandon(); // the first finger did not mean to paint
      this.panning = true;
    } else if (event.button === 1 || this.space) {
      this.panning = true;
    } else {
      this.ringAt = event.pointerType === "touch" ? null : at;
      this.abandon();
      this.begin(this.toPicture(at), erasing ? "eraser" : this.tool);
    }
  }

  move(event) {
    const at = this.inStage(event);
    if (event.pointerType !== "touch") this.ringAt = at;
    const before = this.pointers.get(event.pointerId);
    if (before && this.panning) this.drag(event.pointerId, before, at);
    else if (before && this.stroke) {
      const all = event.getCoalescedEvents?.() ?? [];
      this.extend((all.length ? all : [event]).map((each) => this.toPicture(this.inStage(each))));
    }
    if (this.raster) this.place();
  }

  // One pointer moves the picture; two also zoom, by how their distance changes.
  drag(id, before, at) {
    const others = [...this.pointers].filter(([other]) => other !== id).map(([, place]) => place);
    this.pointers.set(id, at);
    const [left, top] = this.offset;
    if (!others.length) {
      this.moveTo(this.zoom, left + at[0] - before[0], top + at[1] - before[1]);
      return;
    }
    const [x, y] = others[0];
    const then = Math.hypot(before[0] - x, before[1] - y), now = Math.hypot(at[0] - x, at[1] - y);
    const zoom = this.zoomWithin(then > 0 ? (this.zoom * now) / then : this.zoom);
    const middle = (a, b) => (a + b) / 2;
    const [fromX, fromY] = [middle(before[0], x), middle(before[1], y)];
    this.moveTo(
      zoom,
      middle(at[0], x) - ((fromX - left) * zoom) / this.zoom,
      middle(at[1], y) - ((fromY - top) * zoom) / this.zoom,
    );
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (this.stroke) {
      this.extend([this.toPicture(this.inStage(event))], true);
      this.finish();
    }
    if (!this.pointers.size) this.panning = false;
  }

  lost(event) {
    this.pointers.delete(event.pointerId);
    this.abandon();
    if (!this.pointers.size) this.panning = false;
  }

  // The border between before and after is pulled.
  slide(event) {
    event.stopPropagation();
    this.leave();
    if (event.type === "pointerdown") this.divider.setPointerCapture(event.pointerId);
    if (!this.divider.hasPointerCapture(event.pointerId)) return;
    event.preventDefault();
    this.split.value = (100 * this.toPicture(this.inStage(event))[0]) / this.width;
    this.place();
  }

  leave() {
    this.ringAt = null;
    this.place();
  }

  // Without Ctrl the page scrolls, unless the picture was clicked before.
  wheel(event) {
    if (!event.ctrlKey && !this.root.matches(":focus-within")) return;
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 33 : 1; // Firefox counts lines
    const [x, y] = this.inStage(event);
    this.zoomBy(Math.exp(clamp(-event.deltaY * lines, -200, 200) * (event.ctrlKey ? 0.01 : 0.002)), x, y);
  }

  key(event) {
    const typing = event.target === this.slider || event.target === this.split;
    const onButton = event.target.tagName === "BUTTON" && (event.key === "Enter" || event.key === " ");
    event.stopPropagation(); // a notebook has its own ideas of single letters
    if (onButton || (typing && /^(Arrow|Page|Home|End)/.test(event.key))) return;
    const act = this.command(event);
    if (!act) return;
    event.preventDefault();
    if (this.raster) act();
  }

  command(event) {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.ctrlKey || event.metaKey) {
      if (key === "z") return () => (event.shiftKey ? this.strokes.redo() : this.strokes.undo());
      return key === "y" ? () => this.strokes.redo() : null;
    }
    if (event.altKey) return null;
    const step = (event.shiftKey ? 5 : 1) * (STEP / this.zoom);
    return {
      b: () => this.choose("brush"),
      e: () => this.choose("eraser"),
      r: () => this.choose("box"),
      "[": () => this.resize(Math.min(this.size - 1, Math.round(this.size / 1.2))),
      "]": () => this.resize(Math.max(this.size + 1, Math.round(this.size * 1.2))),
      i: () => this.whole("invert"),
      m: () => this.showMask(!this.maskShown),
      Delete: () => this.whole("clear"),
      Backspace: () => this.whole("clear"),
      "+": () => this.zoomBy(1.5),
      "=": () => this.zoomBy(1.5),
      "-": () => this.zoomBy(1 / 1.5),
      0: () => this.fit(),
      "?": () => this.toggleHelp(),
      " ": () => this.stage.classList.toggle("lama-grab", (this.space = true)),
      Escape: () => (this.help.hidden ? this.abandon() : this.toggleHelp()),
      Enter: () => (this.stroke ? this.finish() : this.begin(this.pen)),
      ArrowLeft: () => this.movePen(-step, 0),
      ArrowRight: () => this.movePen(step, 0),
      ArrowUp: () => this.movePen(0, -step),
      ArrowDown: () => this.movePen(0, step),
    }[key];
  }

  movePen(x, y) {
    this.pen = [clamp(this.pen[0] + x, 0, this.width), clamp(this.pen[1] + y, 0, this.height)];
    if (this.stroke) this.extend([this.pen]);
    this.ringAt = this.toStage(this.pen);
    this.place();
  }
}

// A function rather than an object: each model gets strokes of its own, shared by all places where it is shown.
export default () => {
  let strokes;
  return {
    initialize({ model }) {
      strokes = new Strokes(model);
    },
    render({ model, el }) {
      const view = new View(strokes, model);
      el.append(view.root);
      view.start();
      return () => view.close();
    },
  };
};

// The mask painter: a brush over the starter picture. What is painted may change.

import { button, giveFile, make } from "./dom.js";

const MOST_SIDE = 1024; // pixels of the mask
const WIDTH = [0.02, 0.1, 0.4]; // of the brush, of the longer side: least, usual, most

export function watch(model) {
  const { img, mask } = model.element.elements;
  if (!img || !mask) return;
  const open = button("Paint the mask", () => paint(img.files[0], mask, painted), { className: "paint" });
  const painted = { of: null, canvas: null }; // goes on where it was left, with the same picture
  mask.closest(".drop").after(open);
  const show = () => { open.disabled = !img.files.length; };
  img.addEventListener("input", show);
  show();
}

async function paint(file, mask, painted) {
  const picture = await createImageBitmap(file).catch(() => null);
  if (!picture) return;
  if (painted.of !== file) Object.assign(painted, { of: file, canvas: blank(picture) });
  const { canvas } = painted;
  const brush = make("input", { type: "range", min: WIDTH[0], max: WIDTH[2], step: 0.01, value: WIDTH[1], id: "brush" });
  const eraser = button("Eraser", () => { eraser.ariaPressed = String(eraser.ariaPressed !== "true"); }, { ariaPressed: "false" });
  const source = URL.createObjectURL(file);
  const cursor = make("span", { className: "cursor", hidden: true });
  const fit = make("div", { className: "fit", style: { "--ratio": canvas.width / canvas.height } }, make("img", { src: source, alt: "" }), canvas, cursor);
  const done = () => whiteOnBlack(canvas).then((blob) => { giveFile(mask, new File([blob], "mask.png", { type: "image/png" })); dialog.close(); });
  const dialog = make("dialog", { ariaLabel: "Paint what may change" },
    make("p", { textContent: "Paint over what may change. Arrow keys move the brush, the space bar paints." }),
    make("div", { className: "frame" }, fit),
    make("div", { className: "tools" },
      make("label", { htmlFor: "brush", textContent: "Brush" }), brush, eraser,
      button("Clear", () => drawing(canvas).clearRect(0, 0, canvas.width, canvas.height)),
      button("Cancel", () => dialog.close()), button("Use this mask", done, { className: "main" })));
  dialog.addEventListener("close", () => { dialog.remove(); URL.revokeObjectURL(source); mask.closest(".field").querySelector(".paint").focus(); });
  const width = () => brush.value * Math.max(canvas.width, canvas.height);
  listen(canvas, width, () => eraser.ariaPressed === "true", cursor);
  document.body.append(dialog);
  dialog.showModal();
  canvas.focus();
}

function blank({ width, height }) {
  const scale = Math.min(1, MOST_SIDE / Math.max(width, height));
  return make("canvas", { width: Math.round(scale * width), height: Math.round(scale * height), tabIndex: 0, role: "img", ariaLabel: "The mask" });
}

const drawing = (canvas) => canvas.getContext("2d");

// Draws with the pointer, or with the keys where a cursor shows the brush.
function listen(canvas, width, erases, cursor) {
  let last = null;
  const place = [canvas.width / 2, canvas.height / 2];
  const stroke = (to) => {
    const context = drawing(canvas);
    context.globalCompositeOperation = erases() ? "destination-out" : "source-over";
    Object.assign(context, { lineWidth: width(), lineCap: "round", strokeStyle: "#f0b347" });
    context.beginPath();
    context.moveTo(...(last ?? to));
    context.lineTo(to[0] + 0.01, to[1]); // a line without a length is not drawn
    context.stroke();
    last = to;
  };
  const at = ({ offsetX, offsetY }) => [(offsetX * canvas.width) / canvas.clientWidth, (offsetY * canvas.height) / canvas.clientHeight];
  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    cursor.hidden = true;
    last = null;
    stroke(at(event));
  };
  canvas.onpointermove = (event) => { if (event.buttons) for (const one of event.getCoalescedEvents?.() ?? [event]) stroke(at(one)); };
  canvas.onkeydown = (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    step.forEach((one, axis) => { place[axis] = Math.min([canvas.width, canvas.height][axis], Math.max(0, place[axis] + (one * width()) / 3)); });
    cursor.hidden = false;
    const share = (part, whole) => `${(100 * part) / whole}%`;
    Object.assign(cursor.style, { left: share(place[0], canvas.width), top: share(place[1], canvas.height), width: share(width(), canvas.width) });
    last = null;
    if (event.key === " ") stroke([...place]);
  };
}

// The mask as it is sent: white where it was painted, black elsewhere.
async function whiteOnBlack(canvas) {
  const white = new OffscreenCanvas(canvas.width, canvas.height);
  const context = white.getContext("2d");
  context.drawImage(canvas, 0, 0);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  return white.convertToBlob();
}

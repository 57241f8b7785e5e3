// The faces of a photo: shown on the stage, to choose one of them.

import { ask, UPLOAD } from "./api.js";
import { $, button, changed, make, say } from "./dom.js";
import { choose, chosen, onChange } from "./jobs.js";
import { isLocked } from "./key.js";
import { has } from "./service.js";
import { current } from "./tabs.js";

const SIDE = 512; // pixels of the face before the edit

const known = new WeakMap(); // what was found, by file

export const looksForFaces = (model) => "face" in model.parameters && has("POST /faces");

// The faces of a picture, as POST /faces lists them. Each file is looked at once.
export function facesOf(file) {
  if (known.has(file)) return known.get(file);
  const body = new FormData();
  body.append("img", file);
  const found = ask("faces", { method: "POST", body, timeout: UPLOAD });
  known.set(file, found);
  found.catch(() => known.delete(file));
  return found;
}

// Offers the faces of the photo in a model's form.
export function watch(model) {
  const { img, face, output } = model.element.elements;
  if (!img || !face || !looksForFaces(model)) return;
  const said = make("p", { className: "hint", role: "status" });
  $(".bar", model.element).after(said);
  img.addEventListener("input", async () => {
    model.photo = null;
    face.value = "";
    changed(face);
    say(said, "");
    const [file] = img.files;
    if (file) choose(null);
    show();
    if (!file) return;
    model.photo = { file, address: URL.createObjectURL(file), faces: [] };
    show();
    if (isLocked()) return;
    try {
      const { faces, width, height } = await facesOf(file);
      if (file !== img.files[0]) return; // another photo by now
      Object.assign(model.photo, { faces, width, height });
      say(said, faces.length === 1 ? "The photo shows one face." : `The photo shows ${faces.length || "no"} faces.${faces.length > 1 ? " Choose one in the picture." : ""}`);
      show();
    } catch (error) {
      if (error.status && file === img.files[0]) say(said, error.message.replace(/^img: /, ""));
    }
  });
  for (const input of [face, output]) input?.addEventListener("input", show);
  onChange((job) => { if (!job) show(); });
  addEventListener("tab", show);
}

// The number of the face that is edited.
function numberOf({ faces }, choice) {
  if (choice && choice !== "largest") return Number(choice);
  const size = ({ box: [left, upper, right, lower] }) => (right - left) * (lower - upper);
  return faces.length ? faces.reduce((one, other) => (size(other) > size(one) ? other : one)).number : null;
}

function show() {
  const place = $("#photo");
  const model = current();
  const photo = model?.photo;
  place.hidden = !photo || chosen() !== null;
  const empty = $("#empty");
  empty.hidden = !place.hidden || Boolean(chosen()?.address);
  if (!chosen()) say(empty, model?.form.first.includes("img") ? "Drop a photo here." : "Your picture appears here.");
  if (place.hidden) return place.replaceChildren();
  const { face, output } = model.element.elements;
  const picture = make("img", { src: photo.address, alt: "The photo" });
  const fit = make("div", { className: "fit" }, picture);
  picture.addEventListener("load", () => fit.style.setProperty("--ratio", picture.naturalWidth / picture.naturalHeight));
  const number = numberOf(photo, face.value);
  for (const one of photo.faces) {
    const [left, upper, right, lower] = one.box;
    const pick = () => { face.value = face.value === String(one.number) ? "" : one.number; changed(face); };
    fit.append(button(one.number, pick, {
      className: "box", ariaLabel: `Face ${one.number}`,
      ariaPressed: String(face.value === "all" || one.number === number),
      style: { left: `${(100 * left) / photo.width}%`, top: `${(100 * upper) / photo.height}%`, width: `${(100 * (right - left)) / photo.width}%`, height: `${(100 * (lower - upper)) / photo.height}%` },
    }));
  }
  if (photo.faces.length > 1) {
    const pickAll = () => {
      if (!output.value) output.value = "photo"; // several faces are one photo
      face.value = face.value === "all" ? "" : "all";
      changed(output);
      changed(face);
    };
    fit.append(button("All faces", pickAll, { className: "every", ariaPressed: String(face.value === "all") }));
  }
  const had = place.contains(document.activeElement) ? document.activeElement.ariaLabel ?? document.activeElement.textContent : null;
  place.replaceChildren(fit);
  if (had) [...fit.children].find((one) => (one.ariaLabel ?? one.textContent) === had)?.focus();
}

// What an edit is compared with, as an address: the photo, or the face as it is cut out of it.
export async function before(model, { img }, { output = "face", face }) {
  const { photo } = model;
  if (!img || !photo || photo.file !== img || output === "pair") return null;
  if (output === "photo") return photo.address;
  const found = photo.faces.find(({ number }) => number === numberOf(photo, face));
  if (!found) return null;
  const [left, upper, right, lower] = found.box;
  const angle = (found.angle * Math.PI) / 180;
  const side = Math.max(right - left, lower - upper) / (Math.abs(Math.cos(angle)) + Math.abs(Math.sin(angle)));
  const canvas = new OffscreenCanvas(SIDE, SIDE);
  const drawing = canvas.getContext("2d");
  drawing.translate(SIDE / 2, SIDE / 2);
  drawing.scale(SIDE / side, SIDE / side);
  drawing.rotate(-angle);
  drawing.translate(-(left + right) / 2, -(upper + lower) / 2);
  drawing.drawImage(await createImageBitmap(img), 0, 0);
  return URL.createObjectURL(await canvas.convertToBlob());
}

// A picture that was made here says how: its PNG has a text chunk "mead", in JSON. Dropped on the page, it fills
// in the form again; settings that were copied do so when they are pasted.

import { giveFile } from "./dom.js";
import { fill, showError } from "./forms.js";
import { models } from "./service.js";
import { current } from "./tabs.js";

export function start() {
  addEventListener("dragover", (event) => event.preventDefault()); // a miss must not leave the page
  addEventListener("drop", (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file && !event.target.closest(".drop")) fillFrom(file);
  });
  addEventListener("paste", (event) => {
    const text = event.clipboardData.getData("text").trim();
    if (!text.startsWith("{")) return;
    try {
      if (use(JSON.parse(text))) event.preventDefault();
    } catch {} // other text
  });
}

async function provenance(file) {
  const bytes = await file.arrayBuffer();
  const view = new DataView(bytes);
  const text = (from, length) => new TextDecoder("latin1").decode(new Uint8Array(bytes, from, length));
  for (let at = 8; at + 12 <= bytes.byteLength;) {
    const length = view.getUint32(at);
    if (text(at + 4, 4) === "tEXt") {
      const [keyword, said] = text(at + 8, Math.min(length, bytes.byteLength - at - 8)).split("\0", 2);
      if (keyword === "mead") return JSON.parse(said);
    }
    at += 12 + length;
  }
  return null;
}

async function fillFrom(file) {
  const made = await provenance(file).catch(() => null);
  if (use(made)) return;
  const { element, form } = current();
  if (form.first.includes("img")) giveFile(element.elements.img, file);
  else showError(element, { message: "This file does not say how it was made. Pictures made here do." });
}

// Fills in the form of a model by its name. Returns whether there is one.
function use(made) {
  const model = made?.parameters && models.find(({ name }) => name === made.model);
  if (!model) return false;
  fill(model, made.parameters, made.pictures ?? []);
  return true;
}

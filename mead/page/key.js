// The API key: kept until the tab is closed, or in this browser if the person says so; it can be taken back.

import { $, say } from "./dom.js";
import { service } from "./service.js";

const NAME = "mead.key";
const door = $("#door");

export const key = () => sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME);

// Whether a key is needed and there is none. Nobody is asked for one before it is needed.
export const isLocked = () => service.needs_key && !key();

let entering = null;

export function askForKey(why) {
  const before = document.activeElement;
  entering ??= new Promise((entered) => {
    door.onsubmit = (event) => {
      event.preventDefault();
      forget();
      ($("#keep-key").checked ? localStorage : sessionStorage).setItem(NAME, $("#key").value);
      door.reset();
      door.hidden = true;
      entering = null;
      showForget();
      before?.focus();
      entered();
      dispatchEvent(new Event("key"));
    };
    door.hidden = false;
    say($("#why"), why);
    $("#key").focus();
  });
  return entering;
}

function forget() {
  sessionStorage.removeItem(NAME);
  localStorage.removeItem(NAME);
}

function showForget() {
  $("#forget").hidden = !key();
}

// Nothing that the key has shown stays, nor what was written with it.
function leave() {
  forget();
  sessionStorage.clear();
  location.assign(location.pathname);
}

$("#forget").addEventListener("click", leave);
addEventListener("storage", (event) => {
  if (event.key !== NAME) return; // another window has taken the key back, or given one
  if (event.newValue === null && !key()) return leave();
  showForget();
  dispatchEvent(new Event("key"));
});
showForget();

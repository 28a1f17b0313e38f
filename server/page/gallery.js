// The pictures that are passages, each with the text beside it, as a list in the form.

import { element } from "/page/element.js";
import { inWords } from "/page/pictures.js";

const list = document.getElementById("pictures");
const entries = [];

// Passages {text, picture}, in the order of the list.
export function illustrated() {
  return entries.map(({ picture, beside }) => ({ text: beside.value.trim(), picture }));
}

// `changed` is called, with the picture's name, when it is removed.
export function add(picture, changed) {
  const made = element("li");
  const beside = element("input");
  beside.type = "text";
  beside.autocomplete = "off";
  beside.placeholder = "a text beside it, or none";
  beside.setAttribute("aria-label", `Text beside ${picture.name}`);
  const remove = element("button", "", "Remove");
  remove.type = "button";
  remove.setAttribute("aria-label", `Remove ${picture.name}`);
  const entry = { picture, beside, remove };
  remove.addEventListener("click", () => {
    const place = entries.indexOf(entry);
    entries.splice(place, 1);
    made.remove();
    const next = entries[place] ?? entries[place - 1];
    (next?.remove ?? document.getElementById("passages")).focus();
    changed(picture.name);
  });
  const name = element("div", "name", picture.name);
  name.append(element("span", "", ` ${inWords(picture.bytes)}`));
  made.append(picture.thumbnail(), name, remove, beside);
  entries.push(entry);
  list.append(made);
}

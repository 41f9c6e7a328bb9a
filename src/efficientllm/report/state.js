// What the reader chose: search, filters, metrics, order. It stands in the address, so that a link keeps it.
const CHOICES = { q: "", show: "", stage: "", metrics: "", at: "" }; // axes (`axis.mixer`) and orders (`sort.s1`) come beside
const chosen = new Map();
const listeners = [];
const choiceOf = (key) => chosen.get(key) ?? CHOICES[key] ?? "";
function readAddress() {
  const text = location.hash.slice(1);
  chosen.clear();
  if (!text.includes("=")) return;
  for (const [key, value] of new URLSearchParams(text)) if (value) chosen.set(key, value);
}
function writeAddress() {
  const text = new URLSearchParams([...chosen]).toString();
  const plain = location.hash && !location.hash.includes("=");
  if (text || !plain) history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}
function choose(changes) {
  for (const [key, value] of Object.entries(changes)) if (value) chosen.set(key, value); else chosen.delete(key);
  writeAddress();
  listeners.forEach((listener) => listener());
}
function resetChoices() {
  for (const key of [...chosen.keys()]) if (!key.startsWith("sort.")) chosen.delete(key);
  writeAddress();
  listeners.forEach((listener) => listener());
}
// Links inside the page go to their place and leave what was chosen in the address.
function goTo(id) {
  const place = document.getElementById(id);
  if (!place) return;
  for (let part = place; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  place.scrollIntoView();
  if (place.tabIndex < 0 && !place.hasAttribute("tabindex")) place.tabIndex = -1;
  place.focus({ preventScroll: true });
}
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  if (!link || !chosen.size) return; // without choices the browser does it
  event.preventDefault();
  chosen.set("at", link.getAttribute("href").slice(1));
  writeAddress();
  goTo(choiceOf("at"));
});
addEventListener("hashchange", () => {
  const before = String([...chosen]);
  readAddress();
  if (String([...chosen]) !== before) listeners.forEach((listener) => listener());
  goTo(choiceOf("at") || location.hash.slice(1));
});

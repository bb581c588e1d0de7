// Finds sections that hold all words; those with a word in their heading come first. INDEX: [address, page, heading, text].
const input = document.getElementById("search");
const found = document.getElementById("found");
const menu = document.getElementById("menu");
const wide = matchMedia("(min-width: 50.01rem)");

function unfold() {
  menu.open = wide.matches;
}

function score(entry, words) {
  const [, page, heading, text] = entry.map((part) => part.toLowerCase());
  let sum = 0;
  for (const word of words) {
    const points = heading.includes(word) ? 5 : page.includes(word) ? 3 : text.includes(word) ? 1 : 0;
    if (!points) return 0;
    sum += points;
  }
  return sum;
}

function excerpt(text, word) {
  const at = Math.max(0, text.toLowerCase().indexOf(word) - 50);
  return (at ? "… " : "") + text.slice(at, at + 150) + (text.length > at + 150 ? " …" : "");
}

function show() {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  found.hidden = !words.length;
  found.replaceChildren();
  if (!words.length) return;
  const hits = INDEX.map((entry) => [score(entry, words), entry]).filter(([points]) => points);
  hits.sort((one, other) => other[0] - one[0]);
  for (const [, [address, page, heading, text]] of hits.slice(0, 12)) {
    const link = document.createElement("a");
    link.href = input.dataset.root + address;
    link.textContent = heading === page ? page : `${page}: ${heading}`;
    const more = document.createElement("small");
    more.textContent = excerpt(text, words[0]);
    link.append(more);
    const item = document.createElement("li");
    item.append(link);
    found.append(item);
  }
  if (!hits.length) {
    const none = document.createElement("p");
    none.textContent = "Nothing was found.";
    found.append(none);
  }
}

unfold();
wide.addEventListener("change", unfold);
input.addEventListener("input", show);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== input) {
    event.preventDefault();
    input.focus();
  } else if (event.key === "Escape") {
    input.value = "";
    show();
  }
});
document.addEventListener("click", (event) => {
  if (!event.target.closest(".search")) found.hidden = true;
  else if (input.value) found.hidden = false;
});

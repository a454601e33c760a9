// Measures the page in every frame of this window once all are loaded, and leaves the figures as JSON in #measured.
function channels(colour) {
  const [red, green, blue, alpha = 1] = colour.match(/[\d.]+/g).map(Number);
  return { rgb: [red, green, blue], alpha };
}

function luminance(rgb) {
  const [red, green, blue] = rgb.map((v) => (v <= 10.31 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

// WCAG 2: (lighter + 0.05) / (darker + 0.05)
function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

function background(element, view) {
  for (let own = element; own; own = own.parentElement) {
    const { rgb, alpha } = channels(view.getComputedStyle(own).backgroundColor);
    if (alpha === 1) return rgb;
  }
  return null;
}

function texts(page, view) {
  const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const words = walker.currentNode.data.trim();
    if (!words || element.closest("title, desc, style") || !element.checkVisibility()) continue;
    const style = view.getComputedStyle(element);
    const colour = channels(element.closest("svg") ? style.fill : style.color).rgb;
    found.push({ words, size: parseFloat(style.fontSize), contrast: contrast(colour, background(element, view)) });
  }
  return found;
}

// What is wider than the window, but for tables that scroll.
function beyond(page, view) {
  const shown = [...page.body.querySelectorAll("*")].filter((one) => {
    const scroller = one.closest(".scroll");
    return (!scroller || scroller === one) && one.checkVisibility();
  });
  const outside = shown.filter((one) => one.getBoundingClientRect().right > view.innerWidth + 0.5);
  return outside.map((one) => `${one.tagName} ${one.textContent.slice(0, 60)}`);
}

function overlap(one, other) {
  return one.left < other.right && other.left < one.right && one.top + 2 < other.bottom && other.top + 2 < one.bottom;
}

// Labels that lie over one another, or over what a chart shows; lines of the grid may pass behind.
function overlaps(page) {
  return [...page.querySelectorAll("svg")].flatMap((chart) => {
    const labels = [...chart.querySelectorAll("text")];
    const all = [...labels, ...chart.querySelectorAll("rect, circle, .limit, .range, .pointer")];
    const place = new Map(all.map((element) => [element, element.getBoundingClientRect()]));
    return labels.flatMap((label, index) => all.slice(index + 1)
      .filter((other) => overlap(place.get(label), place.get(other)))
      .map((other) => `${label.textContent} / ${other.textContent || other.tagName}`));
  });
}

function measure(frame) {
  const page = frame.contentDocument, view = frame.contentWindow;
  page.querySelectorAll("details").forEach((details) => { details.open = true; });
  return {
    width: view.innerWidth,
    dark: view.matchMedia("(prefers-color-scheme: dark)").matches,
    scrollWidth: page.documentElement.scrollWidth,
    verdict: page.querySelector("#verdict h1").getBoundingClientRect().bottom,
    texts: texts(page, view),
    beyond: beyond(page, view),
    overlaps: overlaps(page),
    requests: view.performance.getEntriesByType("resource").map((entry) => entry.name),
  };
}

window.addEventListener("load", () => {
  const measured = [...document.querySelectorAll("iframe")].map((frame) => [frame.id, measure(frame)]);
  document.getElementById("measured").textContent = JSON.stringify(Object.fromEntries(measured));
});

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
    if (!words || element.closest("title, style") || !element.checkVisibility()) continue;
    const style = view.getComputedStyle(element);
    const colour = channels(style.color).rgb;
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
    requests: view.performance.getEntriesByType("resource").map((entry) => entry.name),
  };
}

window.addEventListener("load", () => {
  const measured = [...document.querySelectorAll("iframe")].map((frame) => [frame.id, measure(frame)]);
  document.getElementById("measured").textContent = JSON.stringify(Object.fromEntries(measured));
});

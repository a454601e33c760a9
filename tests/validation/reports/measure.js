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

function shapes(page, view) {
  return [...page.querySelectorAll("svg rect, svg circle, .key.a, .key.b")].map((element) => {
    const style = view.getComputedStyle(element);
    const inside = style.stroke === "none" ? style.fill : style.stroke;
    const drawn = element.closest("svg") ? inside : style.backgroundColor;
    const behind = background(element.closest("figure"), view);
    return { words: element.getAttribute("class"), contrast: contrast(channels(drawn).rgb, behind) };
  });
}

function beyond(page, view) {
  const outside = [];
  for (const element of page.body.querySelectorAll("*")) {
    const scroller = element.closest(".scroll");
    if ((scroller && scroller !== element) || !element.checkVisibility()) continue;
    const { left, right } = element.getBoundingClientRect();
    const words = `${element.tagName} ${element.textContent.slice(0, 60)}`;
    if (left < -0.5 || right > view.innerWidth + 0.5) outside.push(words);
  }
  return outside;
}

// Tables that are wider than what is shown of them.
function scrolling(page) {
  const wide = [...page.querySelectorAll(".scroll")].filter((box) => box.scrollWidth > box.clientWidth + 1);
  return wide.map((box) => box.textContent.slice(0, 60));
}

function tiles(page) {
  return [...page.querySelectorAll(".tile")].map((tile) => {
    return { title: tile.querySelector("h4").textContent, top: tile.getBoundingClientRect().top };
  });
}

function overlap(one, other) {
  return one.left < other.right && other.left < one.right && one.top + 2 < other.bottom && other.top + 2 < one.bottom;
}

// Labels that lie over one another, or over what a chart shows; lines of the grid may pass behind.
function overlaps(page) {
  const found = [];
  for (const chart of page.querySelectorAll("svg")) {
    const labels = [...chart.querySelectorAll("text")];
    const others = [...labels, ...chart.querySelectorAll("rect, circle, .limit, .range, .pointer")];
    const places = new Map(others.map((element) => [element, element.getBoundingClientRect()]));
    labels.forEach((label, index) => {
      for (const other of others.slice(index + 1)) {
        const words = `${label.textContent} / ${other.textContent || other.tagName}`;
        if (overlap(places.get(label), places.get(other))) found.push(words);
      }
    });
  }
  return found;
}

function measure(frame) {
  const page = frame.contentDocument, view = frame.contentWindow;
  page.querySelectorAll("details").forEach((details) => { details.open = true; });
  const verdict = page.querySelector("#verdict h1"), place = verdict.getBoundingClientRect();
  return {
    width: view.innerWidth,
    dark: view.matchMedia("(prefers-color-scheme: dark)").matches,
    scrollWidth: page.documentElement.scrollWidth,
    verdict: { text: verdict.textContent, visible: verdict.checkVisibility(), top: place.top, bottom: place.bottom },
    texts: texts(page, view),
    shapes: shapes(page, view),
    beyond: beyond(page, view),
    scrolling: scrolling(page),
    tiles: tiles(page),
    table: page.querySelector("#variants ~ * table")?.getBoundingClientRect().top,
    overlaps: overlaps(page),
    charts: [...page.querySelectorAll("svg")].map((chart) => [chart.clientWidth, chart.clientHeight]),
    requests: view.performance.getEntriesByType("resource").map((entry) => entry.name),
  };
}

window.addEventListener("load", () => {
  const frames = [...document.querySelectorAll("iframe")];
  const measured = frames.map((frame) => [frame.id, measure(frame)]);
  document.getElementById("measured").textContent = JSON.stringify(Object.fromEntries(measured));
});

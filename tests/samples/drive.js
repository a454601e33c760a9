// Uses the sample page, which is in a frame, as a person would, and sends what it shows to the test's server.
async function until(holds, what) {
  for (let tries = 0; tries < 1200; tries += 1) {
    if (holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`waited in vain until ${what}`);
}

function look(frame) {
  const page = frame.contentDocument, view = frame.contentWindow;
  const value = (id) => page.getElementById(id).textContent.trim();
  const named = [...page.querySelectorAll("button, input, textarea, select")].filter((own) => own.checkVisibility());
  return {
    ...Object.fromEntries(["status", "answer", "speed", "size", "layers", "precision"].map((id) => [id, value(id)])),
    problem: page.getElementById("problem").hidden ? null : value("problem"),
    isolated: view.crossOriginIsolated,
    width: view.innerWidth,
    scrollWidth: page.documentElement.scrollWidth,
    dark: view.matchMedia("(prefers-color-scheme: dark)").matches,
    texts: texts(page, view),
    beyond: beyond(page, view),
    unnamed: named.filter((own) => !own.labels?.length && !own.textContent.trim()).map((own) => own.id),
  };
}

async function use(frame, { prompt, tokens, key, stop }) {
  const page = frame.contentDocument, part = (id) => page.getElementById(id);
  await until(() => !part("start").disabled || !part("problem").hidden, "the model was ready");
  if (part("start").disabled) return;
  part("prompt").value = prompt;
  part("tokens").value = tokens;
  const press = new frame.contentWindow.KeyboardEvent("keydown", { key: "Enter", ctrlKey: true });
  if (key) part("prompt").dispatchEvent(press);
  else part("start").click();
  if (stop) {
    await until(() => part("speed").textContent !== "", "there was a token");
    part("stop").click();
  }
  await until(() => !part("start").disabled, "the answer was complete");
}

addEventListener("load", async () => {
  const seen = {};
  try {
    for (const frame of document.querySelectorAll("iframe")) {
      await use(frame, JSON.parse(frame.dataset.use));
      seen[frame.id] = look(frame);
    }
  } catch (error) {
    seen.error = String(error);
  }
  await fetch("/seen", { method: "POST", body: JSON.stringify(seen) });
});

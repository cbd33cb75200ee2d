// Says on the page that a script did not load, or takes longer than 5 seconds. Load it before the other scripts.

(() => {
  let note = null;

  function say(text) {
    note ??= Object.assign(document.createElement("p"), { role: "alert" });
    note.style.cssText =
      "position: fixed; inset: 0 0 auto; z-index: 300; margin: 0; padding: .75rem 1rem; overflow-wrap: anywhere; " +
      "background: #b3261e; color: #fff; font: 1rem/1.4 system-ui, sans-serif";
    note.textContent = text;
    (document.body ?? document.documentElement).append(note);
  }

  const timer = setTimeout(say, 5000, "The page is still loading sockjs-client …");
  let failed = false;

  // Events of elements do not bubble.
  addEventListener(
    "error",
    ({ target }) => {
      if (!(target instanceof HTMLScriptElement)) return;
      failed = true;
      clearTimeout(timer);
      const name = target.src.split("/").pop();
      say(
        `${name} did not load, so this page cannot connect. If the server does not contain it, it comes from a CDN, ` +
          "which this browser cannot reach: install Node.js with npm, and start the server again with “make demo”.",
      );
    },
    true,
  );

  // By then, all scripts have run or failed.
  addEventListener("DOMContentLoaded", () => {
    clearTimeout(timer);
    if (!failed) note?.remove();
  });
})();

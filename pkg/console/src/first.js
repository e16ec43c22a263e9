// Runs before the first paint: the theme that was chosen on this device, or the system's.
(function () {
  var chosen = null;
  try {
    chosen = localStorage.getItem("theme");
  } catch (e) {
    // Storage may be forbidden; the system's theme does then.
  }
  var dark = chosen === "dark" || (chosen !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
})();

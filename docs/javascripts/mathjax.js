// Formulas: loads MathJax (1.2 MB) on pages that have some, from this site.
// No menu: its extras (speech, explorer) would be files that this site does not carry.
window.MathJax = {
  tex: { inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]] },
  options: { ignoreHtmlClass: ".*|", processHtmlClass: "arithmatex", enableMenu: false },
};

(function () {
  const here = document.currentScript.src;
  const load = () => {
    if (!document.querySelector(".arithmatex")) return;
    const script = document.createElement("script");
    script.src = new URL("mathjax/tex-mml-chtml.js", here);
    document.head.append(script);
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", load);
  else load();
})();

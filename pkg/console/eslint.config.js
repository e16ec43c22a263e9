// Few rules: those that find mistakes. How it looks is the compiler's and the reader's matter.
import js from "@eslint/js";
import hooks from "eslint-plugin-react-hooks";
import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["dist/**", "node_modules/**"] },
  js.configs.recommended,
  {
    files: ["src/**/*.{ts,tsx}"],
    extends: [tseslint.configs.recommended],
    plugins: { "react-hooks": hooks },
    rules: {
      "react-hooks/rules-of-hooks": "error",
      "react-hooks/exhaustive-deps": "error",
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_" }],
      "@typescript-eslint/only-throw-error": "off",
      eqeqeq: "error",
      "no-restricted-properties": ["error", { property: "innerHTML", message: "text is shown as text" }],
      "no-restricted-syntax": ["error", { selector: "JSXAttribute[name.name='dangerouslySetInnerHTML']", message: "text is shown as text" }],
    },
  },
  {
    files: ["build/**/*.mjs", "e2e/**/*.mjs", "*.js"],
    languageOptions: { globals: { console: "readonly", process: "readonly", URL: "readonly", URLSearchParams: "readonly", Buffer: "readonly", setTimeout: "readonly", clearTimeout: "readonly", performance: "readonly", window: "readonly", document: "readonly", navigator: "readonly", location: "readonly", getComputedStyle: "readonly", PerformanceObserver: "readonly", requestAnimationFrame: "readonly", fetch: "readonly", localStorage: "readonly", innerHeight: "readonly", innerWidth: "readonly", scrollTo: "readonly" } },
  },
  { files: ["src/first.js"], languageOptions: { globals: { localStorage: "readonly", matchMedia: "readonly", document: "readonly" } }, rules: { "no-unused-vars": "off" } },
);

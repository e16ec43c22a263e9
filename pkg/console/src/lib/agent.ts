// What a browser calls itself, in two words. It is what the client says, and proves nothing.

export interface Browser {
  name: string;
  mobile: boolean;
}

const browsers: [RegExp, string][] = [
  [/\bEdgA?\/|\bEdge\//, "Edge"],
  [/\bOPR\//, "Opera"],
  [/\bFirefox\/|\bFxiOS\//, "Firefox"],
  [/\bHeadlessChrome\/|\bChrome\/|\bCriOS\//, "Chrome"],
  [/\bSafari\//, "Safari"],
];

const systems: [RegExp, string][] = [
  [/\biPhone\b/, "iPhone"],
  [/\biPad\b/, "iPad"],
  [/\bAndroid\b/, "Android"],
  [/\bWindows\b/, "Windows"],
  [/\bCrOS\b/, "ChromeOS"],
  [/\bMac OS X\b|\bMacintosh\b/, "macOS"],
  [/\bLinux\b/, "Linux"],
];

export function browser(agent: string): Browser {
  const found = browsers.find(([p]) => p.test(agent))?.[1];
  const system = systems.find(([p]) => p.test(agent))?.[1];
  const mobile = /\bMobile\b|\biPhone\b|\bAndroid\b/.test(agent);
  if (found === undefined) return { name: agent === "" ? "An unknown browser" : agent.slice(0, 60), mobile };
  return { name: system === undefined ? found : `${found} on ${system}`, mobile };
}

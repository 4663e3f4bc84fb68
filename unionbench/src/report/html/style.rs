//! The page's look. Colours are variables, so that figures follow the theme;
//! the pairs keep a contrast of at least 4.5 for text and 3 for lines.

pub const CSS: &str = r#"
:root {
  color-scheme: light dark;
  --bg: #fbfbf9; --card: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #d9dde2; --grid: #e9ecef;
  --accent: #0b5cad; --good: #1a7040; --bad: #b3261e;
  --s0: #5f6873; --s1: #0b5cad; --s2: #b4500b; --s3: #1a7040; --s4: #7a3fa3; --s5: #a3174f;
  --heat: #0b5cad;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #0f1216; --card: #171b21; --ink: #e7eaee; --soft: #a6afba; --line: #2f3741; --grid: #252c35;
    --accent: #7db8f5; --good: #6fcf97; --bad: #ff8a80;
    --s0: #a6afba; --s1: #6fb1f5; --s2: #f0a05a; --s3: #62cb92; --s4: #c69bee; --s5: #f58ab0;
    --heat: #7db8f5;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--bg); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
header, main, footer, nav { max-width: 76rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.25rem; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 .35rem; letter-spacing: -.01em; }
h2 { font-size: 1.4rem; line-height: 1.25; margin: 2.75rem 0 .25rem; padding-top: 1rem; border-top: 2px solid var(--ink); }
h3 { font-size: 1.1rem; margin: 2.25rem 0 .6rem; }
h4 { font-size: .95rem; margin: 0; font-weight: 600; }
p { margin: .4rem 0 .8rem; max-width: 68ch; }
.lead, .soft, figcaption, footer { color: var(--soft); }
.lead { margin-top: 0; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: .75rem 0 0; padding: 0; font-size: .92rem; }
a { color: var(--accent); text-underline-offset: .15em; overflow-wrap: anywhere; }
ul.words { list-style: none; margin: 0; padding: 0; display: grid; gap: .6rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
ul.words li { background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--accent); border-radius: 6px; padding: .7rem .9rem; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); align-items: start; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .9rem .9rem .7rem; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; max-width: 40rem; margin: .5rem auto 0; }
figcaption { font-size: .86rem; }
svg text { fill: var(--soft); font: 12px system-ui, "DejaVu Sans", sans-serif; }
svg .title { fill: var(--ink); }
svg .grid-line { stroke: var(--grid); stroke-width: 1; }
svg .axis { stroke: var(--line); stroke-width: 1; }
svg .fit { stroke-dasharray: 2 4; stroke-width: 1.25; fill: none; }
svg .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .band { stroke-width: 5; opacity: .28; stroke-linecap: round; }
svg .c0 { stroke: var(--s0); } svg .c1 { stroke: var(--s1); } svg .c2 { stroke: var(--s2); }
svg .c3 { stroke: var(--s3); } svg .c4 { stroke: var(--s4); } svg .c5 { stroke: var(--s5); }
svg .f0 { fill: var(--s0); } svg .f1 { fill: var(--s1); } svg .f2 { fill: var(--s2); }
svg .f3 { fill: var(--s3); } svg .f4 { fill: var(--s4); } svg .f5 { fill: var(--s5); }
svg .heat { fill: var(--heat); }
ul.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .4rem 0 0; padding: 0; font-size: .84rem; }
ul.legend li { display: flex; align-items: center; gap: .45rem; }
ul.legend svg { width: 26px; height: 12px; margin: 0; flex: none; }
.scroll { overflow-x: auto; margin: .4rem 0 .2rem; }
.scroll:focus-visible, summary:focus-visible, a:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .84rem; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .32rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; white-space: nowrap; }
th.n, td.n { text-align: right; white-space: nowrap; }
td:not(.n) { min-width: 5rem; }
td:not(.n):last-child { min-width: 13rem; }
section > h4 { margin: 1.1rem 0 .1rem; }
tbody tr:last-child td { border-bottom: 0; }
details { margin: .5rem 0 0; font-size: .92rem; }
summary { cursor: pointer; color: var(--accent); padding: .15rem 0; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .8rem; overflow-x: auto; font-size: .84rem; }
code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
pre code { overflow-wrap: normal; }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .15rem 1rem; margin: .4rem 0; font-size: .92rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
.warn li { margin-bottom: .3rem; overflow-wrap: anywhere; }
footer { padding: 2.5rem 1.25rem 3rem; font-size: .88rem; }
@media (max-width: 34rem) {
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; }
  header, main, footer, nav { padding-left: .9rem; padding-right: .9rem; }
}
@media print { details > * { display: block; } figure, tr { break-inside: avoid; } nav { display: none; } }
"#;

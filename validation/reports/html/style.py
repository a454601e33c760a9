"""The style sheet of the page: light and dark, from the width of a phone up."""

from __future__ import annotations

# Colour-blind readers can distinguish this blue and orange, and green and red of this lightness; every verdict has a
# sign and a word as well. The steps h1 to h5 of a heat map get closer to --b. The SVG's margin leaves room for the
# labels of the vertical axis.
STYLE = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --text: #1c2126; --quiet: #57606a; --rule: #d5dae0; --grid: #e4e8ec;
  --a: #0067b1; --b: #d07a00; --link: #0757a8;
  --h1: #faf2e6; --h2: #f6e4cc; --h3: #f1d7b2; --h4: #ecca99; --h5: #e8bc80;
  --good: #00614a; --good-back: #dff3ec; --bad: #a3220b; --bad-back: #fde7e2; --mid: #594a00; --mid-back: #f6edc8; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171b; --card: #1d2227; --text: #e8ebee; --quiet: #a4adb6; --rule: #3a424a; --grid: #2d343b;
  --a: #58b0f0; --b: #f2a541; --link: #86c5ff;
  --h1: #302e29; --h2: #433a2c; --h3: #57452e; --h4: #6a5130; --h5: #7d5d33;
  --good: #74dcb7; --good-back: #12342a; --bad: #ffa18d; --bad-back: #431c14; --mid: #e9d27a; --mid-back: #38300f; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--text); overflow-wrap: anywhere;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 16px; }
header, section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 16px; margin: 0 0 16px; }
header { border-left: 10px solid var(--mid); }
header.passed { border-left-color: var(--good); }
header.failed { border-left-color: var(--bad); }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 8px; }
header.passed h1 { color: var(--good); }
header.failed h1 { color: var(--bad); }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 0 0 8px; }
h3 { font-size: 1rem; margin: 20px 0 4px; }
p { margin: 0 0 8px; }
p.failure { font-weight: 600; }
.quiet, small, caption { color: var(--quiet); }
small { display: block; font-size: .8rem; }
a { color: var(--link); }
code { font: .85em ui-monospace, "DejaVu Sans Mono", monospace; }
ol, ul { margin: 0 0 8px; padding-left: 22px; }
li { margin: 0 0 8px; }
li li { margin: 0; }
.pill { display: inline-block; white-space: nowrap; padding: 0 8px; border-radius: 10px; font-size: .8rem;
  font-weight: 600; line-height: 1.5; vertical-align: middle; color: var(--mid); background: var(--mid-back); }
.pill.chosen { color: var(--good); background: var(--good-back); }
.pill.passed { color: var(--good); background: var(--good-back); }
.pill.failed { color: var(--bad); background: var(--bad-back); }
.scroll { overflow-x: auto; max-width: 100%; margin: 8px 0; }
.scroll:focus-visible, a:focus-visible, summary:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; font-size: .8rem; padding-bottom: 4px; }
th, td { text-align: left; vertical-align: top; padding: 6px 12px 6px 0; border-bottom: 1px solid var(--grid);
  white-space: nowrap; }
thead th { color: var(--quiet); font-weight: 600; vertical-align: bottom; white-space: normal; }
td small { white-space: normal; min-width: 8ch; }
.prose td { white-space: normal; min-width: 30ch; }
article { margin: 0 0 24px; }
article h3 { font-size: 1.1rem; margin: 0; }
.tiles { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 260px), 1fr)); }
.tile { border: 1px solid var(--rule); border-top: 4px solid var(--a); border-radius: 8px; padding: 12px 16px; }
.tile.worse { border-top-color: var(--b); }
.tile h4 { margin: 0 0 4px; font-size: .88rem; color: var(--quiet); }
.tile > div { margin: 0 0 12px; }
.tile > div:last-child { margin: 0; }
.tile p { margin: 4px 0 0; font-size: .88rem; }
.tile p.value { margin: 0; line-height: 1.3; }
.tile .value b { font-size: 1.2rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile .value span { color: var(--quiet); margin-left: .35em; }
.tile h4 + div .value b { font-size: 2rem; line-height: 1.2; }
.tile .value.none b, .tile h4 + div .value.none b { color: var(--quiet); font-size: 1.2rem; }
.note { font-size: .88rem; max-width: 90ch; }
tbody th { font-weight: 600; position: sticky; left: 0; background: var(--card); }
tbody th.long { white-space: normal; min-width: 14ch; }
.heat { display: block; padding: 2px 8px; border: 2px solid transparent; border-radius: 4px; }
.heat.own { border-color: var(--text); }
.heat.word { display: inline-block; font-size: .8rem; margin: 0 4px 4px 0; }
.heat small { color: inherit; }
.h0 { background: var(--card); }
.h1 { background: var(--h1); }
.h2 { background: var(--h2); }
.h3 { background: var(--h3); }
.h4 { background: var(--h4); }
.h5 { background: var(--h5); }
details { margin: 8px 0; }
summary { cursor: pointer; color: var(--link); }
.charts { display: grid; gap: 8px 32px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 310px), 1fr));
  align-items: end; }
figure { margin: 12px 0; max-width: 620px; }
figcaption { font-size: .88rem; margin-bottom: 6px; }
figcaption b { display: block; }
figcaption span { white-space: nowrap; margin-right: 14px; color: var(--quiet); }
.key { display: inline-block; width: 12px; height: 12px; margin-right: 5px; border-radius: 2px; vertical-align: -1px; }
.key.a { background: var(--a); }
.key.b { background: var(--b); }
.key.beaten { background: var(--quiet); opacity: .45; }
.key.dash { width: 0; border-left: 2px dashed var(--text); border-radius: 0; }
.plot svg { display: block; width: 100%; overflow: visible; }
.plot.inset svg { margin-left: 52px; width: calc(100% - 56px); }
svg text { fill: var(--quiet); font-size: 12px; }
svg text.first { fill: var(--bad); font-weight: 600; }
.a { fill: var(--a); }
.b { fill: var(--b); }
.beaten { fill: var(--quiet); fill-opacity: .45; }
.ring { fill: none; stroke: var(--text); stroke-width: 2; }
svg text.chosen { fill: var(--text); font-weight: 600; }
.axis { stroke: var(--quiet); }
.grid { stroke: var(--grid); }
.path { stroke: var(--a); stroke-opacity: .45; }
.limit { stroke: var(--text); stroke-width: 2; stroke-dasharray: 4 3; }
.pointer { stroke: var(--bad); stroke-dasharray: 3 3; }
circle.first { fill: var(--card); stroke: var(--bad); stroke-width: 3; }
circle.lost { fill: var(--bad); }
.range { stroke-width: 4; stroke-linecap: round; stroke: var(--a); stroke-opacity: .5; }
.dot { fill: var(--a); }
.range.failed { stroke: var(--bad); }
.dot.failed { fill: var(--bad); }
@media (max-width: 480px) { main { padding: 8px; } header, section { padding: 12px; } }
@media print { body { background: none; } section { break-inside: avoid-page; } }
"""

"""The one style sheet of ``report.html``: light, dark, print, narrow. No fonts, no images, no network."""

from __future__ import annotations

__all__ = ["COLOURS", "CSS", "DATA", "SHADES", "curve_rules"]

_LIGHT = """
--bg:#fff;--soft:#f6f8fa;--fg:#1b1f24;--muted:#57606a;--edge:#d0d7de;--link:#0550ae;--tint:#d8eef0;
--holds:#0b6b50;--holds-bg:#dff5ea;--fails:#b3261e;--fails-bg:#fde8e6;--inconclusive:#7d5200;--inconclusive-bg:#fcf0d4;
--absent:#57606a;--absent-bg:#eaeef2;--error:#8f1d5c;--error-bg:#fbe6f1;--lost:#5c36a0;--lost-bg:#efe8fb;
--was:#d8eef0;--now:#ffdcd2;
"""
_DARK = """
--bg:#0d1117;--soft:#161b22;--fg:#e6edf3;--muted:#9aa4af;--edge:#30363d;--link:#79b8ff;--tint:#12363b;
--holds:#56d3a3;--holds-bg:#0f2f25;--fails:#ff8a80;--fails-bg:#3d1513;--inconclusive:#f0c060;--inconclusive-bg:#382a0c;
--absent:#9aa4af;--absent-bg:#21262d;--error:#ff8fc7;--error-bg:#3a1229;--lost:#c3a6ff;--lost-bg:#2a1d47;
--was:#12363b;--now:#5a231b;
"""

SHADES = (2, 3, 4, 5, 6, 8, 16, 32)  # bits of a weight in a map of tensors, the faintest first
_LIGHT_SHADES = "--s2:#eaf3fb;--s3:#d6e7f5;--s4:#bcd7ee;--s5:#98c1e3;--s6:#6fa7d4;--s8:#4488bf;--s16:#2a6197;--s32:#173f66;"
_DARK_SHADES = "--s2:#14202d;--s3:#182c40;--s4:#1d3a56;--s5:#244b70;--s6:#2d608f;--s8:#3d7cb6;--s16:#6aa3d8;--s32:#b3d4f2;"

# Dashes besides colours: colour alone would say nothing to some readers and to a printer.
_CURVES = ("link", "fails", "holds", "inconclusive", "lost", "error")
_DASHES = ("none", "8 4", "2 3", "10 3 2 3", "5 5", "1 5")


def curve_rules(count: int) -> list[str]:
    """A rule per curve, c0, c1 ...; no two of the first twelve share both colour and dash."""
    kinds = ((i, _CURVES[i % 6], _DASHES[(i + i // 6) % 6]) for i in range(count))
    return [f".curve.c{i}{{stroke:var(--{c});stroke-dasharray:{d}}}.at.c{i}{{fill:var(--{c})}}" for i, c, d in kinds]


COLOURS = f":root{{color-scheme:light dark;{_LIGHT}}}@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}".replace("\n", "")

CSS = (
    COLOURS
    + f":root{{{_LIGHT_SHADES}}}@media (prefers-color-scheme:dark){{:root{{{_DARK_SHADES}}}}}"
    + """
*{box-sizing:border-box}
html{scroll-padding-top:1rem}
body{overflow-wrap:break-word;margin:0 auto;max-width:1240px;padding:1.5rem 1.25rem 4rem;background:var(--bg);color:var(--fg);
 font:.94rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans","DejaVu Sans",sans-serif}
h1{font-size:1.6rem;line-height:1.2;margin:0}
h2{font-size:1.25rem;margin:2.2rem 0 .6rem;padding-bottom:.3rem;border-bottom:1px solid var(--edge)}
h3{font-size:1rem;margin:1.4rem 0 .4rem}
p{margin:.4rem 0;max-width:80ch}
a{color:var(--link);text-underline-offset:.15em}
a:focus-visible,summary:focus-visible,.scroll:focus-visible{outline:2px solid var(--link);outline-offset:2px}
code,pre,.mono{font:.88em/1.45 ui-monospace,SFMono-Regular,Menlo,"Liberation Mono","DejaVu Sans Mono",monospace}
pre{background:var(--soft);border:1px solid var(--edge);border-radius:6px;padding:.6rem .8rem;overflow:auto;white-space:pre-wrap;
 overflow-wrap:anywhere;margin:.4rem 0}
code{overflow-wrap:anywhere}
.muted{color:var(--muted)}
.small{font-size:.86rem}
.skip{position:absolute;left:-99in}
.paper{display:none}
.skip:focus{position:static}
.meta{color:var(--muted);margin:.3rem 0 0;overflow-wrap:anywhere}
.release{font-size:1.2rem;font-weight:650;margin:1rem 0 .7rem;padding:.7rem 1rem;border-radius:8px;border-left:6px solid;max-width:none}
.release.good{color:var(--holds);background:var(--holds-bg)}
.release.bad{color:var(--fails);background:var(--fails-bg)}
.release.open{color:var(--inconclusive);background:var(--inconclusive-bg)}
.warn{border:2px solid var(--inconclusive);color:var(--inconclusive);background:var(--inconclusive-bg);border-radius:8px;
 padding:.5rem 1rem;font-weight:650;max-width:none;overflow-wrap:anywhere}
.advice{border-left:6px solid;border-radius:8px;padding:.5rem 1rem;margin:.6rem 0}
.advice.good{border-color:var(--holds);background:var(--holds-bg)}
.advice.open{border-color:var(--inconclusive);background:var(--inconclusive-bg)}
.pick{font-size:1.2rem}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr));gap:.8rem}
.card{border:1px solid var(--edge);border-radius:8px;padding:.5rem .9rem .7rem;overflow-wrap:anywhere;font-size:.9rem}
.card.picked{border:2px solid var(--holds)}
.card .name{font-size:1.02rem}
.card h3.name{margin:.1rem 0 .3rem}
.glance{grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr))}
.glance .card p{margin:.2rem 0}
ul.plain{list-style:none;padding-left:0!important}
h4{margin:.5rem 0 0;font-size:.8rem;color:var(--muted);font-weight:600}
.advice ul,.card ul{margin:.2rem 0;padding-left:1.1rem}
li{margin:.15rem 0}
.badges{display:flex;flex-wrap:wrap;gap:.4rem;list-style:none;padding:0;margin:.5rem 0}
.badge{display:inline-block;white-space:nowrap;border-radius:1em;padding:.05rem .6rem;font-size:.84rem;font-weight:600;
 border:1px solid currentColor;color:var(--absent);background:var(--absent-bg)}
.badge.o-holds{color:var(--holds);background:var(--holds-bg)}
.badge.o-fails{color:var(--fails);background:var(--fails-bg)}
.badge.o-inconclusive{color:var(--inconclusive);background:var(--inconclusive-bg)}
.badge.o-error{color:var(--error);background:var(--error-bg)}
.badge.o-lost{color:var(--lost);background:var(--lost-bg)}
.badge.none{opacity:.7;border-style:dashed}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin:.8rem 0 0;font-size:.92rem}
.scroll{overflow-x:auto;border:1px solid var(--edge);border-radius:8px;margin:.5rem 0}
table{border-collapse:collapse;width:100%;font-size:.9rem}
caption{text-align:left;padding:.4rem .7rem;color:var(--muted);font-size:.84rem}
th,td{padding:.38rem .7rem;text-align:left;vertical-align:top;border-top:1px solid var(--edge)}
thead th{background:var(--soft);border-top:0;font-size:.8rem;color:var(--muted);font-weight:600;white-space:nowrap;vertical-align:bottom}
thead tr+tr th{border-top:1px solid var(--edge)}
tbody th{font-weight:600}
th[scope=rowgroup]{background:var(--soft);font-size:.86rem}
th[colspan]:not([scope=rowgroup]){text-align:center}
.num{font-variant-numeric:tabular-nums;white-space:nowrap}
.num a{color:inherit;text-decoration-color:var(--muted)}
.claim{min-width:13rem;width:46%}
.dense th,.dense td{padding:.38rem .5rem}
.dense tbody th{position:sticky;left:0;background:var(--bg);border-right:1px solid var(--edge)}
.sign{font-weight:700}
.o-holds.sign,.met{color:var(--holds)}
.o-fails.sign,.unmet{color:var(--fails)}
.o-inconclusive.sign{color:var(--inconclusive)}
.claim .muted,.claim .why{display:block;font-weight:400;font-size:.93em}
.sub{display:block;color:var(--muted);font-size:.93em;font-weight:400}
.was,.now{padding:0 .1em;border-radius:3px;color:inherit}
.was{background:var(--was);text-decoration:underline dotted}
.now{background:var(--now);text-decoration:underline wavy;text-decoration-thickness:1px}
.answer{white-space:pre-wrap;overflow-wrap:anywhere;min-width:17rem;max-width:34rem}
.answer.tight{min-width:12rem}
details{margin:.5rem 0}
summary{cursor:pointer;padding:.25rem 0}
article{border:1px solid var(--edge);border-radius:8px;padding:.2rem 1rem .7rem;margin:.9rem 0}
article:target{outline:3px solid var(--link)}
article h3{display:flex;flex-wrap:wrap;gap:.6rem;align-items:center;margin:.7rem 0 .3rem;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:11rem 1fr;gap:.15rem 1rem;margin:.5rem 0;font-size:.9rem}
dt{color:var(--muted)}
dd{margin:0;overflow-wrap:anywhere}
figure{margin:.8rem 0}
figcaption{color:var(--muted);font-size:.86rem}
.panels{display:flex;flex-wrap:wrap;gap:1rem}
.panels .scroll{border:0;margin:0;max-width:100%}
svg.plot{display:block;color:var(--fg);font:12px system-ui,"Liberation Sans","DejaVu Sans",sans-serif}
svg.wide{min-width:680px;width:100%;height:auto}
svg.half{max-width:100%;height:auto}
svg text{fill:var(--fg);paint-order:stroke;stroke:var(--bg);stroke-width:3px;stroke-linejoin:round}
svg .tick,svg .axis{fill:var(--muted)}
svg .label,svg .title{font-weight:600}
svg .grid{stroke:var(--edge)}
svg .zero{stroke:var(--muted)}
svg .bound{stroke:var(--fg);stroke-width:1.5;stroke-dasharray:4 3}
svg .good{fill:var(--tint)}
svg .bar{stroke:var(--absent);stroke-width:2}
svg .mark{fill:var(--absent);stroke:var(--bg);stroke-width:1}
svg .o-holds.bar{stroke:var(--holds)}svg .o-holds.mark{fill:var(--holds)}
svg .o-fails.bar{stroke:var(--fails)}svg .o-fails.mark{fill:var(--fails)}
svg .o-inconclusive.bar{stroke:var(--inconclusive)}svg .o-inconclusive.mark{fill:var(--inconclusive)}
svg .dot{fill:var(--link);fill-opacity:.45}
svg .box{fill:none;stroke:var(--fg);stroke-width:1.2}
svg .median{stroke:var(--fg);stroke-width:2.5}
svg .mean{fill:var(--fg)}
.plot .bar.beaten{stroke:var(--muted);stroke-width:1}
.plot .mark.beaten{fill:var(--bg);stroke:var(--muted);stroke-width:1.5}
.plot .leader{stroke:var(--muted);stroke-width:.7}
.plot .strike{stroke:var(--fg);stroke-width:1.2}
.plot .strike.wrong{stroke:var(--fails);stroke-width:2}
.plot .spelled{font-size:10px;stroke-width:2.5px}
.s0{fill:var(--bg);stroke:var(--muted)}
.curve{fill:none;stroke-width:2}
"""
    + "\n".join([*(f".s{bits}{{fill:var(--s{bits})}}" for bits in SHADES), *curve_rules(12)])
    + """
@media (max-width:600px){
 body{padding:1rem .75rem 3rem}
 h1{font-size:1.3rem}
 .release{font-size:1.05rem}
 article{padding:.2rem .7rem .6rem}
 dl{grid-template-columns:1fr;gap:0}
 dd{margin:0 0 .4rem}
 th,td{padding:.35rem .5rem}
 table{font-size:.84rem}
 .claim{min-width:11rem}
 .badge{font-size:.76rem;padding:.05rem .45rem}
}
@page{size:landscape;margin:12mm}
@media print{
 :root{"""
    + _LIGHT
    + _LIGHT_SHADES
    + """}
 html{font-size:11px}
 body{max-width:none;padding:0}
 nav,.skip{display:none}
 .scroll{overflow:visible;border:0}
 table{font-size:.78rem}
 th,td,.dense th,.dense td{padding:.2rem .35rem}
 thead th{white-space:normal}
 .claim,.answer{min-width:0}
 .dense td{white-space:normal}
 .dense tbody th{position:static}
 tr,figure,.card{break-inside:avoid}
 .panels{flex-wrap:nowrap}
 .panels svg{min-width:0;flex:1 1 0}
 h2,h3{break-after:avoid}
 .paper{display:block}
 *{-webkit-print-color-adjust:exact;print-color-adjust:exact}
}
"""
)

# For pages that show audited data. The more leaked, the stronger the colour; the number stands in the cell.
DATA = (
    """
.datasets{font-size:.84rem}
.datasets th,.datasets td{padding:.3rem .36rem}
.datasets thead th{font-size:.76rem}
"""
    + "".join(
        f".heat .h{i}{{background:color-mix(in srgb,var(--fails) {share}%,var(--bg))}}\n" for i, share in enumerate((0, 10, 20, 32, 45))
    )
    + """
.heat .sub{color:inherit}
@media (max-width:600px){.datasets tbody th,.heat tbody th{min-width:6.5rem;max-width:8.5rem;overflow-wrap:anywhere}}
"""
)

"""Pairs of answers by kind: what a student writes, what the reference says. Each kind has both directions."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """(prediction, reference) pairs that are the same answer, and that are not."""

    equal: list[tuple[str, str]]
    different: list[tuple[str, str]]


STRICT = {
    "named values": Kind(
        equal=[
            ("(2,3)", "x=2, y=3"), ("2, 3", "x=2, y=3"), ("y=3, x=2", "x=2, y=3"), ("x=2,y=3", "(2,3)"),
            ("y=3, x=2", "(2,3)"), (r"x=2 \text{ and } y=3", "(2, 3)"), ("(x,y)=(2,3)", "x=2, y=3"),
            ("x=2, y=3", "(x,y)=(2,3)"), ("(y,x)=(3,2)", "x=2,y=3"), ("(2,3)", "(x,y)=(2,3)"),
            (r"p=2, q=7", r"p=2 \text{ and } q=7"), (r"q=7 \text{ and } p=2", r"p=2, q=7"), ("2, 7", r"p=2, q=7"),
            (r"x=\frac12, y=0.25", r"(\frac12,\frac14)"), ("a=1,b=2,c=3", "(1,2,3)"), ("1, 2, 3", "a=1,b=2,c=3"),
            ("x=1 or x=2", "2, 1"), ("x=2, x=1", "x=1, x=2"), ("2, 1", "x=1, x=2"), (r"x = \pm 2", "2, -2"),
            ("x=1,y=2; x=3,y=4", "(3,4),(1,2)"), ("(1,2), (2,1)", r"x=1,y=2 \text{ or } x=2,y=1"),
            (r"x=1,\ y=-1", "y=-1, x=1"), ("x_1=2, x_2=5", "x_2=5, x_1=2"), (r"\alpha=1, \beta=2", r"\beta=2,\alpha=1"),
            ("x = y = 2", "(2,2)"), ("f(x)=2x, g(x)=3x", "g(x)=3x, f(x)=2x"), ("2x, 3x", "f(x)=2x, g(x)=3x"),
            ("x=2, y=3 cm", "x=2, y=3"), ("x=1, y=2, z=3", "(x,y,z)=(1,2,3)"),
        ],
        different=[
            ("(3,2)", "x=2, y=3"), ("3, 2", "x=2, y=3"), ("y=2, x=3", "x=2, y=3"), ("x=3,y=2", "(2,3)"),
            ("y=2, x=3", "(2,3)"), ("x=3 and y=2", "x=2 and y=3"), ("(x,y)=(3,2)", "x=2, y=3"),
            ("x=2, y=3", "(x,y)=(3,2)"), ("(y,x)=(2,3)", "x=2,y=3"), ("(3,2)", "(x,y)=(2,3)"),
            ("7, 2", r"p=2 \text{ and } q=7"), ("(3,1,2)", "a=1,b=2,c=3"), ("4, -1", "m=-1, n=4"),
            ("x=2", "x=2, y=3"), ("x=2, y=3, z=4", "x=2, y=3"), ("a=2, b=3", "x=2, y=3"), (r"\{3,2\}", "x=2, y=3"),
            ("2", "x=2, y=2"), ("x=2", "y=2"), ("(2,1), (3,4)", "x=1,y=2; x=3,y=4"), ("x_1=5, x_2=2", "x_1=2, x_2=5"),
            ("f(x)=3x, g(x)=2x", "f(x)=2x, g(x)=3x"), ("3x, 2x", "f(x)=2x, g(x)=3x"), ("x=2, y=3", "2"),
            ("3", "x=2, y=3"), ("(2,3)", "x=2 or x=3"), ("x=2, y=3", "2 or 3"), ("x=1, y=-1", r"\pm 1"),
            (r"\alpha=2,\beta=1", r"\alpha=1,\beta=2"), ("b=1, a=2", "a=1, b=2"),
        ],
    ),
    "Euler's number": Kind(
        equal=[
            (r"\mathrm{e}", "e"), (r"\mathrm{e}^2", "e^2"), (r"e^2", r"\mathrm{e}^{2}"), (r"\text{e}", "e"),
            (r"2\mathrm{e}", "2e"), (r"\mathrm{e}^{x}", "e^x"), (r"\ln \mathrm{e}", "1"), (r"\operatorname{e}^{-1}", r"\frac1e"),
            (r"\frac{1}{\mathrm{e}}", "e^{-1}"), (r"\mathrm{e}^{\mathrm{i}\pi}", "-1"), (r"\exp(2)", "e^2"),
            (r"\mathrm{e}-1", "e-1"), (r"{\rm e}^3", "e^3"), (r"\mathrm{e}^{-x}\sin x", r"e^{-x}\sin x"),
            (r"3+4\mathrm{i}", "3+4i"), (r"\mathbf{e}^2", "e^2"), (r"\exp\left(\frac12\right)", r"\sqrt{e}"),
            (r"\mathrm{\pi}", r"\pi"), (r"\frac{\mathrm{e}^2-1}{2}", r"\frac{e^2-1}{2}"), ("2.718281828", r"\mathrm{e}"),
        ],
        different=[
            (r"\mathrm{e}", "1"), (r"\mathrm{e}^2", "e^3"), (r"2\mathrm{e}", "e"), (r"\mathrm{e}", "2.7"),
            (r"\mathrm{e}", "2.72"), (r"\mathrm{e}^{x}", "2^x"), (r"\mathrm{e}", r"\pi"), (r"\ln \mathrm{e}", "e"),
            (r"\mathrm{e}^{-1}", "e"), (r"\mathrm{e}", "0"), (r"x\mathrm{e}", "x"), (r"\exp(2)", "2"),
            (r"\mathrm{e}-1", "e+1"), (r"\mathrm{i}", "1"),
        ],
    ),
    "letters": Kind(
        equal=[
            (r"\frac{\sqrt{a}}{\sqrt{b}}", r"\sqrt{\frac{a}{b}}"), (r"\sqrt{\frac{a}{b}}", r"\frac{\sqrt{a}}{\sqrt{b}}"),
            (r"\ln a+\ln b", r"\ln(ab)"), (r"\ln(ab)", r"\ln a + \ln b"), (r"\ln\frac{a}{b}", r"\ln a-\ln b"),
            (r"\log(x^2)", r"2\log x"), (r"\sqrt{ab}", r"\sqrt{a}\sqrt{b}"), (r"\sqrt{x}\sqrt{y}", r"\sqrt{xy}"),
            (r"(ab)^{1/2}", r"\sqrt a \sqrt b"), (r"\sqrt{a^2b}", r"a\sqrt{b}"), (r"\sqrt[3]{ab}", r"\sqrt[3]{a}\sqrt[3]{b}"),
            (r"\log_2(xy)", r"\log_2 x+\log_2 y"), (r"\sqrt{\frac{2h}{g}}", r"\frac{\sqrt{2h}}{\sqrt{g}}"),
            (r"2\pi\sqrt{\frac{l}{g}}", r"\frac{2\pi\sqrt{l}}{\sqrt{g}}"), (r"\ln(x^3y)", r"3\ln x+\ln y"),
            (r"\sqrt{x^4}", "x^2"), (r"\sqrt{x^2}", "|x|"), (r"\sqrt{\frac{x}{y^2}}", r"\frac{\sqrt{x}}{y}"),
            (r"x^{3/2}", r"x\sqrt{x}"), (r"\sqrt{50x^3}", r"5x\sqrt{2x}"), (r"\frac{1}{2}\ln x", r"\ln\sqrt{x}"),
            (r"e^{2\ln x}", "x^2"), (r"\sqrt{a^2+2ab+b^2}", "|a+b|"), (r"(x^6)^{1/3}", "x^2"),
        ],
        different=[
            (r"\sqrt{\frac{a}{b}}", r"\frac{a}{b}"), (r"\sqrt{a+b}", r"\sqrt a+\sqrt b"), (r"\ln(a+b)", r"\ln a+\ln b"),
            (r"\sqrt{x^2}", "x"), ("|x|", "x"), ("|x|", "-x"), (r"\ln(ab)", r"\ln a \ln b"), (r"\log(x^2)", r"(\log x)^2"),
            (r"|a|\sqrt{b}", r"a\sqrt{b}"), (r"\sqrt{\frac{a}{b}}", r"\sqrt{\frac{b}{a}}"), (r"\sqrt{ab}", r"a\sqrt b"),
            (r"\sqrt{x^3}", "x^2"), (r"\ln\frac{a}{b}", r"\frac{\ln a}{\ln b}"), (r"x^{3/2}", r"x^{2/3}"),
            (r"\sqrt{(x-1)^2}", "x-1"), (r"\sqrt[3]{x^3+1}", "x+1"),
        ],
    ),
    "Python's power": Kind(
        equal=[
            (r"\frac{x^2}{3}", "x**2/3"), ("x**2", "x^2"), ("2**10", "1024"), ("x**2 + 2*x + 1", "(x+1)^2"),
            ("x**(n+1)", "x^{n+1}"), ("x**-1", r"\frac{1}{x}"), ("x**10", "x^{10}"), ("3*x**2*y", "3x^2y"),
            ("(x+1)**2", "x^2+2x+1"), ("x**(1/2)", r"\sqrt{x}"), ("e**x", "e^x"), ("2**(-3)", r"\frac18"),
            ("x**2/3", r"\frac13 x^2"), ("10**6", "1000000"), ("x ** 2", "x^2"), ("a**b", "a^b"), ("2^10", "1024"),
            ("x^10", "x^{10}"), ("x^(n+1)", "x^{n+1}"), ("-2**2", "-4"), ("x**2.5", "x^{2.5}"),
        ],
        different=[
            ("x**2", "2x"), ("x**2", "x^3"), ("2**3", "6"), ("2**10", "2^{1}0"), ("x**10", "10x"), ("x**2/3", "x^{2/3}"),
            ("2**3", "23"), ("x**(n+1)", "x^n+1"), ("2**", "2"), ("**2", "4"), ("x**-1", "-x"), ("3**2", "6"),
        ],
    ),
    "repeating decimals": Kind(
        equal=[
            (r"0.\overline{3}", r"\frac13"), (r"\frac{1331}{9999}", r"0.\overline{1331}"), (r"0.1\overline{6}", r"\frac16"),
            (r"0.\bar{3}", "1/3"), (r"0.\dot{3}", "1/3"), (r".\overline{27}", r"\frac{3}{11}"), (r"1.\overline{3}", r"\frac43"),
            (r"-0.\overline{6}", r"-\frac23"), (r"0.\overline{9}", "1"), (r"0.\dot{1}4285\dot{7}", r"\frac17"),
            (r"0.\overline3", r"\frac13"), (r"0.2\overline{45}", r"\frac{27}{110}"), (r"\frac13", r"0.\overline{3}"),
            (r"0.\overline{3}", r"0.\overline{33}"), (r"33.\overline{3}\%", r"33\frac13\%"), ("0.333...", r"\frac13"),
            (r"0.\overline{142857}", r"\frac17"), (r"x=0.\overline{3}", "1/3"), (r"$0.\overline{3}$", "1/3"),
            (r"0.333\ldots", r"\frac13"), (r"0.1666\dots", r"\frac16"), (r"0.\overline{3}", "0.333333333"),
            ("0.3̅", r"\frac13"), (r"2\cdot 0.\overline{3}", r"\frac23"), (r"0.\overline{1}, 0.\overline{2}", r"\frac19, \frac29"),
            (r"12.\overline{12}", r"\frac{400}{33}"), (r"3.\overline{3}\text{ cm}", r"\frac{10}{3}"), ("0.(3)", r"\frac13"),
        ],
        different=[
            (r"0.\overline{3}", "0.3"), (r"0.\overline{3}", "0.33"), (r"0.\overline{13}", r"0.1\overline{3}"),
            ("0.3", r"\frac13"), (r"0.\overline{3}", "3"), (r"0.\overline{6}", "0.6"), (r"0.\overline{1331}", "0.1331"),
            (r"0.1\overline{6}", "0.16"), (r"1.\overline{3}", "1.3"), (r"0.\overline{9}", "0.9"), (r"\overline{AB}", "AB"),
            (r"0.\overline{3}", r"\frac23"), ("0.33...", "0.3"), (r"\overline{3}", "3"), (r"\bar{x}", "x"),
            (r"0.\overline{27}", r"0.2\overline{7}"),
        ],
    ),
    "Markdown in the box": Kind(
        equal=[
            ("**73**", "73"), ("__73__", "73"), ("*73*", "73"), ("`73`", "73"), (r"**\frac{1}{2}**", "0.5"), ("***73***", "73"),
            ("**73.**", "73"), ("**x = 5**", "5"), (r"**\sqrt{12}**", r"2\sqrt3"), ("**blue**", "blue"), ("**(1,2)**", "(1,2)"),
            (r"$**73**$", "73"), (r"**$73$**", "73"), ("**73** cm", "73"), ("**1,234**", "1234"), ("**-73**", "-73"),
            (r"\text{**73**}", "73"), ("**73%**", r"73\%"),
        ],
        different=[
            ("**74**", "73"), ("*73", "73"), ("73*", "73"), ("**", "73"), ("****", "73"), ("7**3", "73"), ("**7**3", "73"),
            ("7*3", "73"), ("*7*3*", "73"), ("__7__3", "73"), ("73**", "73"), ("**73", "73"),
        ],
    ),
    "digits in groups": Kind(
        equal=[
            ("2 220", "2220"), (r"10\ 000", "10000"), ("10\u202f000", "10000"), ("1\u2009000\u2009000", "1000000"),
            ("1\u00a0234.5", "1234.5"), ("10~000", "10000"), ("1 000 000", "10^6"), (r"2\;220", "2220"), ("2220", "2 220"),
            ("2 220 cm", "2220"), (r"12\,345", "12345"), (r"\$2 220", "2220"), ("-2 220", "-2220"), ("1 234,", "1234"),
            (r"10\ 000\pi", r"10000\pi"), (r"x = 2 220", "2220"), ("2 220, 3 330", "2220, 3330"), (r"10\,000\text{ m}", "10000"),
            ("10’000", "10000"), ("10'000", "10000"), (r"2\thinspace220", "2220"), ("10\u2007000", "10000"), (r"1\:000", "1000"),
        ],
        different=[
            ("2 220", "2, 220"), ("2, 220", "2220"), ("1 23", "123"), ("12 3456", "123456"), ("1 1/2", "11/2"), ("2 22", "222"),
            ("2 220", "2"), ("2 220", "220"), ("3 100/3", "3100/3"), ("1 2 3", "123"), ("1234 567", "1234567"),
            ("2 220", "2221"), ("2; 220", "2220"), ("5 and 220", "5220"), (r"\frac 1 200", "1200"),
        ],
    ),
    "Unicode": Kind(
        equal=[
            ("𝟯", "3"), ("𝟏𝟐", "12"), ("１２", "12"), ("٣٤", "34"), ("३", "3"), ("x₂", "x_2"), ("a₁₂", "a_{12}"), ("xₙ", "x_n"),
            ("1⁄2", r"\frac{1}{2}"), ("¹⁄₂", r"\frac12"), ("⅔", r"\frac23"), ("⅝", "5/8"), ("⅙", r"\frac16"), ("1½", "1.5"),
            ("3⅖", r"\frac{17}{5}"), ("√2", r"\sqrt{2}"), ("2√3", r"\sqrt{12}"), ("√(x+1)", r"\sqrt{x+1}"), ("∛8", "2"),
            ("∛2", r"\sqrt[3]{2}"), ("∜16", "2"), ("√2/2", r"\frac{\sqrt2}{2}"), ("√12.25", "3.5"), ("x⁻¹", r"\frac1x"),
            ("2¹⁰", "1024"), ("x²y³", "x^2y^3"), ("⌊x⌋", r"\lfloor x \rfloor"), ("⌈x⌉", r"\lceil x \rceil"), ("α+β", r"\alpha+\beta"),
            ("θ", r"\theta"), ("2π", r"2\pi"), ("𝑥+1", "x+1"), ("𝐱", "x"), ("3∕4", "0.75"), ("30º", "30"), ("30˚", r"30^\circ"),
            ("log₂8", "3"), ("10⁻³", "0.001"), ("ℯ²", "e^2"), ("(−∞, 3]", r"(-\infty,3]"), ("x ≥ 2", r"x \geq 2"),
            ("x∈ℝ", r"x\in\mathbb{R}"), ("5∙3", "15"), ("2∗3", "6"), ("x²⁺¹", "x^3"), ("½x", r"\frac{x}{2}"), ("√π", r"\sqrt{\pi}"),
            ("√a", r"\sqrt{a}"), ("|x|", "∣x∣"), ("52₈", "52_8"), ("5㎝", r"5\text{ cm}"), ("eˣ", "e^x"), ("Δ", r"\Delta"),
            ("√x²", "√(x²)"), ("⟨1,2⟩", r"\langle 1,2\rangle"), ("50％", r"50\%"), ("3：4", "3:4"),
        ],
        different=[
            ("𝟯", "4"), ("𝟏𝟐", "21"), ("x₂", "x^2"), ("x₂", "x_3"), ("x₂", "2x"), ("x²", "x_2"), ("x²", "2x"), ("2³", "23"),
            ("1⁄2", "12"), ("1½", "11/2"), ("⅔", "23"), ("√2", "2"), ("∛8", r"\sqrt{8}"), ("∛8", "3"), ("√(x+1)", r"\sqrt{x}+1"),
            ("√2/2", r"\sqrt{2/2}"), ("√x+1", r"\sqrt{x+1}"), ("⌊x⌋", "x"), ("⌊x⌋", r"\lceil x\rceil"), ("α", r"\beta"), ("3⅖", "32/5"),
            ("2√3", r"\sqrt[2]{3}"), ("x⁻¹", "-x"), ("٣", "4"), ("log₂8", "8"), ("½x", "x"), ("52₈", "52_7"), ("5₈", "58"),
        ],
    ),
    "sets by condition": Kind(
        equal=[
            (r"\{x \in \mathbb{R} : x > 2\}", r"(2,\infty)"), (r"(2,\infty)", r"\{x \in \mathbb{R} \mid x>2\}"),
            (r"\{x \mid x \neq 3\}", r"(-\infty,3)\cup(3,\infty)"), (r"\{x \in \mathbb{R} : x \ne 0\}", r"\mathbb{R}\setminus\{0\}"),
            (r"\{x \in \mathbb{Z} : -2<x<3\}", r"\{-1,0,1,2\}"), (r"\{1,2,3\}", r"\{n \in \mathbb{N} : 1\le n\le 3\}"),
            (r"\{x : x<-1 \text{ or } x>1\}", r"(-\infty,-1)\cup(1,\infty)"), (r"\{y : y \ge 1\}", r"[1,\infty)"),
            (r"\left\{x \,\middle|\, 0<x<1\right\}", "(0,1)"), (r"\{x\in\mathbb R|0\le x\le 1\}", "[0,1]"), ("x>2", r"\{x\in\mathbb{R}:x>2\}"),
            (r"\{x \in \mathbb{R} : x^2 < 4\}", "(-2,2)"), (r"\{t \mid t>2\}", r"\{x \mid x>2\}"), (r"x \neq 3", r"(-\infty,3)\cup(3,\infty)"),
            (r"\mathbb{R}\setminus\{3\}", r"x \ne 3"), (r"\{x \in \mathbb{R} : x>2 \text{ and } x<5\}", "(2,5)"),
            (r"\{x | x \in \mathbb{R}, x>2\}", r"(2,\infty)"), (r"(-\infty,\infty)", r"\mathbb{R}"), (r"\{x \in \mathbb{R} : x>2\}", r"\{x:x>2\}"),
            (r"\{x \in \mathbb{R} : x^2=4\}", r"\{-2,2\}"), (r"\{ x : 2 < x \}", r"(2, \infty)"), (r"(2,\infty)", r"\{x \mid x>2, x \in \mathbb{R}\}"),
            (r"\{x \in \mathbb{R} : x \ge 2 \}", r"[2,+\infty)"), (r"\mathbb{R}-\{0\}", r"(-\infty,0)\cup(0,\infty)"),
        ],
        different=[
            (r"\{x \in \mathbb{R} : x > 2\}", r"[2,\infty)"), (r"\{x \in \mathbb{R} : x > 2\}", r"(3,\infty)"),
            (r"\{x \in \mathbb{Z} : -2<x<3\}", "(-2,3)"), (r"\{x \in \mathbb{R} : -2<x<3\}", r"\{-1,0,1,2\}"),
            (r"\{x : x<-1 \text{ or } x>1\}", "(-1,1)"), (r"\{x \in \mathbb{R} : x>2\}", "2"), (r"\{x \in \mathbb{R} : x>2\}", r"\mathbb{R}"),
            (r"\{x \mid x \ne 3\}", r"\mathbb{R}"), (r"\{x \mid x \ne 3\}", r"\{3\}"), (r"\{x \in \mathbb{R} : x^2 < 4\}", "(-4,4)"),
            (r"\{x \in \mathbb{N} : x<4\}", r"\{x \in \mathbb{R} : x<4\}"), (r"\{x\in\mathbb{R}: x>2\}", r"\{x\in\mathbb{R}: x<2\}"),
            (r"\{x \in \mathbb{R} : x^2=4\}", r"\{2\}"), (r"\mathbb{R}\setminus\{0\}", r"\mathbb{R}\setminus\{1\}"),
        ],
    ),
    "plus-minus": Kind(
        equal=[
            ("2, -2, 3", r"\pm 2, 3"), (r"\pm 2, 3", "3, 2, -2"), (r"\pm 1, \pm 2", "1,-1,2,-2"), (r"0, 1\pm\sqrt2", r"0, 1+\sqrt2, 1-\sqrt2"),
            (r"x = \pm 3", "3, -3"), (r"x=3 \text{ or } x=-3", r"x=\pm 3"), (r"\{\pm 2\}", r"\{-2, 2\}"), (r"(\pm 1, 0)", "(1,0),(-1,0)"),
            (r"(1,0), (-1,0)", r"(\pm1,0)"), (r"\pm\sqrt3", r"\sqrt3, -\sqrt3"), (r"\frac{1\pm\sqrt5}{2}", r"\frac{1-\sqrt5}{2}, \frac{1+\sqrt5}{2}"),
            (r"\pm i", "i, -i"), (r"\{0, \pm 1\}", r"\{-1,0,1\}"), ("±2, 0", "0, 2, -2"), (r"\pm 2", r"\pm\sqrt4"), (r"2 \pm i, 3", "3, 2+i, 2-i"),
            (r"-1, 1", r"\pm 1"), (r"x=\pm 1, x=2", "2, 1, -1"), (r"\pm\frac{1}{2}, \pm 3", r"3, -3, 0.5, -0.5"), ("2, -2", r"x = \pm 2"),
            (r"(\pm 1, \pm 2)", "(1,2),(1,-2),(-1,2),(-1,-2)"),
        ],
        different=[
            ("2, 3", r"\pm 2, 3"), ("2, -2", r"\pm 2, 3"), ("2", r"\pm 2"), ("-2", r"\pm 2"), (r"\pm 2", "2"), (r"\pm 2, 3", r"\pm 3, 2"),
            (r"\pm 1, \pm 2", "1, -1, 2"), ("2021", r"\pm 2021"), (r"(\pm 1, 0)", "(0,1),(0,-1)"), (r"1\pm\sqrt2", r"\pm1+\sqrt2"),
            ("1,0", r"(\pm1,0)"), (r"\pm 2", r"\pm 3"), (r"\pm i", "1, -1"), (r"x=\pm 3", "x=3"), (r"\{0,\pm 1\}", r"\{0, 1\}"),
        ],
    ),
    "zero": Kind(
        equal=[
            (r"\log_2 8-3", "0"), ("0", r"\log_2 8-3"), (r"\sqrt2-\sqrt2", "0"), (r"\cos\frac{\pi}{2}", "0"), (r"\ln 1", "0"), (r"\sin \pi", "0"),
            (r"\cos 90^\circ", "0"), (r"\sqrt{4}-2", "0"), ("e^0-1", "0"), ("1-1", "0"), (r"\sin^2 1+\cos^2 1-1", "0"), (r"\tan 45^\circ-1", "0"),
            ("0.0", "0"), ("-0", "0"), ("0 cm", "0"), (r"\frac{0}{5}", "0"), (r"2^{10}-1024", "0"), (r"1+e^{i\pi}", "0"),
            (r"\log_3 27-3", "0"), (r"\sqrt{8}-2\sqrt{2}", "0"), (r"\ln 6-\ln 2-\ln 3", "0"), ("x-x", "0"), (r"\frac{1}{3}-\frac{2}{6}", "0"),
            (r"x=\log_2 8-3", "0"),
        ],
        different=[
            (r"\log_2 8-2", "0"), (r"\sqrt2-1", "0"), ("10^{-9}", "0"), ("10^{-40}", "0"), ("1e-8", "0"), (r"\cos 0", "0"), (r"\ln 2", "0"),
            (r"\sin 1", "0"), (r"e^{-100}", "0"), ("x", "0"), (r"\pi-3.14159265", "0"), (r"\emptyset", "0"), (r"\text{none}", "0"),
            (r"\infty", "0"), ("i", "0"), (r"\sqrt{2}-1.41421356", "0"),
        ],
    ),
    "y for f(x)": Kind(
        equal=[
            ("y = 2x + 3", "f(x) = 2x + 3"), ("f(x) = 2x + 3", "y = 2x + 3"), ("y=3+2x", "f(x)=2x+3"), ("2x+3", "f(x)=2x+3"), ("f(x)=2x+3", "2x+3"),
            ("y = x^2", "g(x) = x^2"), (r"f^{-1}(x) = \frac{x-3}{2}", r"\frac{x-3}{2}"), (r"y=\frac{x-3}{2}", r"f^{-1}(x)=\frac{x-3}{2}"),
            ("f'(x)=2x", "2x"), ("f(2)=5", "5"), ("y(x) = e^x", "y = e^x"), (r"y=(x+1)^2", "f(x)=x^2+2x+1"), ("P(A)=0.5", r"\frac12"),
            ("z = x+y", "f(x,y) = x+y"), ("f(t)=2t+3", "f(x)=2x+3"), (r"h(x) = \sin x", r"y = \sin x"), ("f(x, y) = xy", "xy"), ("y = 5", "f(x) = 5"),
        ],
        different=[
            ("y = 2x + 4", "f(x) = 2x + 3"), ("x = 2y+3", "f(x) = 2x+3"), ("g(x) = 2x+3", "f(x) = 2x+3"), ("y=3x", "f(x)=2x"), ("f(2)=5", "f(3)=5"),
            (r"f^{-1}(x)=2x", "f(x)=2x"), ("f'(x)=2x", "f(x)=2x"), ("y = 2t+3", "f(x) = 2x+3"), ("f(x)=2x+3", "y=2x"), ("f(2)=5", "2"), ("f(2)=5", "10"),
            ("h = 2x+3", "f(x)=2x+3"), ("x=5", "f(x)=5"), ("f(x)=3x+2", "2x+3"),
        ],
    ),
    "cut off": Kind(
        equal=[
            ("5.", "5"), ("+5", "5"), ("5!", "120"), ("5^2", "25"), ("=5", "5"), (r"185\\", "185"), ("5_{10}", "5"), ("5,", "5"), ("5 cm", "5"), ("(5)", "5"),
            ("5x", "5x"), ("5 .", "5"), ("5^{2}", "25"), (r"5\,", "5"), ("5;", "5"), ("f'", "f'"), ("{5}", "5"),
        ],
        different=[
            ("5-", "5"), ("5*", "5"), ("5_x", "5"), ("5+", "5"), ("5/", "5"), ("5^", "5"), ("5_", "5"), (r"5\cdot", "5"), (r"5\times", "5"), ("5 -", "5"),
            ("*5", "5"), ("/5", "5"), ("5(", "5"), ("5=", "5"), (r"5\div", "5"), ("5 +", "5"), ("x-", "x"), ("x+", "x"), ("x*", "x"), (r"\sqrt{2}+", r"\sqrt2"),
            ("5^x", "5"), ("5_{n}", "5"), ("5<", "5"), (r"5\pm", "5"), (r"5\frac", "5"), ("5:", "5:3"), (">5", "5"), (r"\frac{1}{2}-", "0.5"), ("5-, 6", "5, 6"),
            ("5−", "5"), ("5×", "5"), ("5&", "5"), ("5#", "5"), ("(5-)", "5"), ("x^2-", "x^2"), ("5_x", "5x"), (r"5\sqrt", "5"), ("-", "0"), ("5|", "5"), ("5^{}_x", "5"),
        ],
    ),
    "identities": Kind(
        equal=[
            (r"\cos(x)", r"\sin(90^{\circ}-x)"), (r"\sin(90^\circ - x)", r"\cos x"), (r"\sin(\frac{\pi}{2}-x)", r"\cos x"), (r"\tan 45^\circ", "1"),
            (r"\sin 30^\circ", r"\frac12"), (r"\cos(180^\circ-x)", r"-\cos x"), (r"2\sin x\cos x", r"\sin 2x"), (r"\frac{\pi}{6}", r"30^\circ"),
            (r"\tan(90^\circ-\theta)", r"\cot\theta"), (r"\sin(x+360^\circ)", r"\sin x"), (r"1-2\sin^2 x", r"\cos 2x"), (r"\sin^2 15^\circ", r"\frac{2-\sqrt3}{4}"),
        ],
        different=[
            (r"\sin(x)", r"\sin(90^{\circ}-x)"), (r"\sin 30^\circ", r"\frac{\sqrt3}{2}"), (r"\cos(90^\circ+x)", r"\sin x"), (r"\sin 30", r"\frac12"), (r"\tan x", r"\cot x"),
            (r"\sin 2x", r"2\sin x"), (r"30^\circ", "31"), (r"\cos(x)", r"\sin(45^\circ-x)"),
        ],
    ),
}  # fmt: skip

QWEN = {
    "infinity": Kind(
        equal=[
            (r"\infty", r"\infty"), (r"-\infty", r"-\infty"), ("infinity", r"\infty"), (r"+\infty", r"\infty"), (r"(-\infty, 3)", r"(-\infty,3)"),
            (r"10^{400}", "10^{400}"), (r"x=\infty", r"\infty"), (r"10^{400}", r"100^{200}"),
        ],
        different=[
            (r"\infty", "42"), ("42", r"\infty"), (r"-\infty", "42"), (r"\infty", "0"), (r"\infty", r"\frac12"), (r"\infty", r"-\infty"), (r"-\infty", r"\infty"),
            ("infinity", "7"), ("inf", "7"), ("nan", "7"), ("NaN", "7"), ("7", "nan"), (r"\frac{1}{0}", "42"), (r"\frac{0}{0}", "42"), (r"10^{400}", "42"), ("1e999", "42"),
            ("1e999", "1e998"), (r"10^{400}", r"10^{500}"), (r"\infty", r"\sqrt{2}"), (r"(-\infty, 3)", "(5,3)"), (r"y=\infty", "y=42"), (r"x=\infty", "42"), (r"\infty", "x"),
            (r"\infty^2", "42"), (r"2\infty", "2"), (r"\infty - \infty", "0"), (r"\tan 90^\circ", "42"), (r"\ln 0", "42"), (r"\frac{42}{\infty}", "42"),
            (r"\begin{pmatrix}\infty\\1\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"), (r"\infty i", "42"), (r"42+\infty", "42"), ("-1e999", "42"),
        ],
    ),
}  # fmt: skip

CHOICES = ["the cat", "12", "7", "none of these"]
OPTIONS = Kind(
    equal=[
        (box, "C")
        for box in (
            "C", "c", "(c)", "[C]", "[c]", "{c}", r"\text{c}", r"\text{(c)}", "c.", "c)", "C - 7", "C – 7", "C: 7", "c) 7", "c. 7", "(c) 7", "(C) - 7", "option c", "Option (c)", "**c**",
            r"\textbf{(c)}", "(C)", r"\mathrm{c}", "C — 7", "7", "the answer is c", "（c）", "[C] 7", "C=7", "Choice C", r"\boxed{c}", "<C>", '"C"', "c:7",
        )
    ],
    different=[
        (box, "C")
        for box in (
            "b", "(b)", "[B]", "B - 12", "b. 12", "C - 8", "C - 12", "c, d", "b or c", "C or D", "d", "C and D", "cat", "c d", "12", "the cat", "(a)", "e", "abc", "C+7", "B - 7", "bc", "not c",
        )
    ],
)  # fmt: skip

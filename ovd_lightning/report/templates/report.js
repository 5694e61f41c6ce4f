(async () => {
  const data = await pageData;
  if (!data) return;

  // --- small helpers: text goes into text nodes, never into markup ---------------------------------------------
  function make(tag, className, ...children) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }
  const number = (value, digits) => (value === null || value === undefined ? "none" : Number(value.toFixed(digits)).toString());
  const scored = (value) => value !== null && value !== undefined;

  // --- rollout viewer ------------------------------------------------------------------------------------------
  if (!data.rounds.length) return;
  const low = data.scoreLow, high = low + 9;
  const roundSelect = find("round"), problemSelect = find("problem"), tip = find("tip");

  // Orange for low, blue for high, nothing in the middle: safe for colour-blind readers, in light and dark.
  function colour(score) {
    const t = Math.min(1, Math.max(0, (score - low) / (high - low)));
    const alpha = (0.06 + 0.46 * Math.abs(2 * t - 1)).toFixed(3);
    return t < 0.5 ? `rgb(226 98 0 / ${alpha})` : `rgb(20 120 205 / ${alpha})`;
  }
  find("legend").append("score ");
  for (let score = low; score <= high; score++) {
    const swatch = make("i", "", String(score));
    swatch.style.background = colour(score);
    find("legend").append(swatch);
  }

  let explained = null;
  function showTip(anchor, score, distribution) {
    const bars = make("div", "bars"), axis = make("div", "axis");
    const top = Math.max(...distribution.map((p) => p || 0), 1e-9);
    distribution.forEach((p, i) => {
      const bar = make("i", "");
      bar.style.height = Math.round((60 * (p || 0)) / top) + "px";
      bars.append(bar);
      axis.append(make(i + low === Math.round(score) ? "b" : "span", "", String(i + low)));
    });
    const total = distribution.reduce((sum, p) => sum + (p || 0), 0) || 1;
    const mean = distribution.reduce((sum, p, i) => sum + (p || 0) * (i + low), 0) / total;
    const likeliest = distribution.indexOf(Math.max(...distribution)) + low;
    tip.replaceChildren(
      make("p", "", `score ${number(score, 2)} · mean ${mean.toFixed(2)} · likeliest ${likeliest} (${Math.round(100 * top)} %)`),
      bars, axis);
    tip.hidden = false;
    explained = anchor;
    placeTip();
  }
  function placeTip() {
    if (!explained) return;
    const box = explained.getBoundingClientRect(), size = tip.getBoundingClientRect();
    if (box.bottom < 0 || box.top > innerHeight) return hideTip();
    const below = box.bottom + 6 + size.height < innerHeight;
    tip.style.top = (below ? box.bottom + 6 : Math.max(4, box.top - size.height - 6)) + "px";
    tip.style.left = Math.max(4, Math.min(box.left + 20, innerWidth - size.width - 4)) + "px";
  }
  function hideTip() { tip.hidden = true; explained = null; }
  // Moving the focus scrolls the page, so the tip follows its step instead of vanishing.
  addEventListener("scroll", placeTip, { passive: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
  // A node that shows a distribution while it is pointed at or focused.
  function explains(node, score, distribution) {
    if (!distribution) return;
    node.tabIndex = 0;
    node.setAttribute("aria-describedby", "tip");
    for (const event of ["mouseenter", "focus"]) node.addEventListener(event, () => showTip(node, score, distribution));
    for (const event of ["mouseleave", "blur"]) node.addEventListener(event, hideTip);
  }

  function stepNode(step, byTeacher) {
    const digit = make("span", "digit", scored(step.score) ? number(step.score, 1) : "–");
    digit.setAttribute("aria-label", scored(step.score) ? "score " + number(step.score, 2) : "not scored");
    const node = make("li", "step" + (scored(step.score) ? "" : " unscored") + (byTeacher ? " by-teacher" : ""),
      digit, make("span", "text", step.text.replace(/\n+$/, "")));
    if (scored(step.score)) node.style.background = colour(step.score);
    explains(node, step.score, step.distribution);
    return node;
  }

  function pair(label, value, className) { return make("span", className || "", label + " ", make("b", className || "", value)); }

  function card(t, state) {
    const badge = make("span", "badge " + t.source, t.source === "mixed" ? "student, then teacher" : t.source);
    const numbers = make("p", "numbers",
      pair("reward", number(t.reward, 3)),
      pair("answer", scored(t.answer) ? t.answer : "none"),
      scored(t.correct) ? make("b", t.correct ? "good" : "bad", t.correct ? "✓ correct" : "✗ wrong") : null,
      t.in_mixture === false ? make("span", "", "not trained on") : pair("advantage", number(t.advantage, 3)));
    if (scored(t.score)) {
      const score = pair("score", number(t.score, 2));
      explains(score, t.score, t.distribution);
      numbers.append(score);
    }
    if (scored(t.tokens)) numbers.append(pair("tokens", String(t.tokens)));
    if (t.stop_reason) numbers.append(pair("stopped at", t.stop_reason.replaceAll("_", " ")));
    const steps = make("ol", "steps", ...t.steps.map((step) =>
      stepNode(step, t.source === "teacher" || (t.source === "mixed" && step.start >= t.student_tokens))));
    return make("article", t.in_mixture === false ? "replaced" : "",
      make("h3", "", `Sample ${t.sample}`, badge, make("span", "state", state)), numbers, steps);
  }

  const mean = (list) => (list.length ? number(list.reduce((a, b) => a + b, 0) / list.length, 3) : "none");
  function showGroup() {
    hideTip();
    const round = data.rounds[roundSelect.selectedIndex], group = round.groups[problemSelect.selectedIndex];
    const all = group.trajectories, replaced = all.filter((t) => t.in_mixture === false);
    const mixture = all.filter((t) => t.in_mixture !== false);
    const own = [...replaced, ...mixture.filter((t) => t.source === "student")];
    const decided = own.filter((t) => scored(t.accepted));
    const rewards = (list) => mean(list.map((t) => t.reward).filter(scored));
    let summary = `reference ${group.answers.join(" or ") || "none"} · mean reward: student's ${own.length} samples ${rewards(own)},`
      + ` the ${mixture.length} trained on ${rewards(mixture)}`;
    if (decided.length) summary += ` · accepted by score ${decided.filter((t) => t.accepted).length} of ${decided.length}`;
    if (decided.length || replaced.length) summary += ` · kept ${own.length - replaced.length} of ${own.length}`;
    if (mixture.every((t) => !t.advantage)) summary += " · zero advantage: this group gives no gradient";

    const list = make("div", "trajectories");
    const replacedBy = new Map();
    for (const loser of replaced) {
      const successor = mixture.find((t) => t.sample === loser.sample && t.source !== "student");
      if (successor) replacedBy.set(successor, loser);
    }
    const shown = new Set(replacedBy.values());
    for (const t of [...mixture, ...replaced].sort((a, b) => a.sample - b.sample)) {
      if (shown.has(t)) continue;
      const loser = replacedBy.get(t);
      if (loser) {
        const arrow = make("span", "arrow", "→");
        arrow.setAttribute("aria-label", "replaced by");
        const how = t.source === "mixed" ? "continued by the teacher" : "replaces it";
        list.append(make("div", "pair", card(loser, loser.verdict), arrow, card(t, how)));
      } else list.append(card(t, t.source !== "student" ? "added to the group" : t.verdict));
    }
    find("group").replaceChildren(make("p", "question", group.question), make("p", "summary", summary), list);
    const last = roundSelect.selectedIndex === data.rounds.length - 1 && problemSelect.selectedIndex === round.groups.length - 1;
    find("previous").disabled = roundSelect.selectedIndex === 0 && problemSelect.selectedIndex === 0;
    find("next").disabled = last;
  }
  function fillProblems(index) {
    const groups = data.rounds[roundSelect.selectedIndex].groups;
    problemSelect.replaceChildren(...groups.map((group, i) => {
      const replaced = group.trajectories.filter((t) => t.in_mixture === false).length;
      const question = group.question.length > 48 ? group.question.slice(0, 48) + "…" : group.question;
      return make("option", "", `${i + 1}. ${question || group.problem}${replaced ? ` (${replaced} replaced)` : ""}`);
    }));
    problemSelect.selectedIndex = Math.min(index, groups.length - 1);
  }
  roundSelect.append(...data.rounds.map((round) =>
    make("option", "", round.round + (round.reason ? ` (${round.reason})` : ""))));
  roundSelect.addEventListener("change", () => { fillProblems(problemSelect.selectedIndex); showGroup(); });
  problemSelect.addEventListener("change", showGroup);
  find("next").addEventListener("click", () => {
    if (problemSelect.selectedIndex < problemSelect.length - 1) problemSelect.selectedIndex++;
    else { roundSelect.selectedIndex++; fillProblems(0); }
    showGroup();
  });
  find("previous").addEventListener("click", () => {
    if (problemSelect.selectedIndex > 0) problemSelect.selectedIndex--;
    else { roundSelect.selectedIndex--; fillProblems(Infinity); }
    showGroup();
  });
  fillProblems(0);
  showGroup();
  find("viewer").hidden = false;
})();

// The only way to a job that changes power. Esc, Enter and Back all leave things as they are.

import { BUTTONS, fullName, labelOf, me, obstacle, pointless } from "./state.js";
import { $, age, clock, stateOf, text } from "./words.js";

const ARMED_MS = 400; // the second press of a double click is no answer
let decide = () => {};
let arming;

// Returns the job, which carries what the person was looking at, or null.
export async function confirmed(view, job) {
	const { danger, consequence } = BUTTONS[job.verb].dataset;
	const label = labelOf(job.verb);
	const why = obstacle(view, job.verb);
	const { seen, note } = view;
	const was = seen ? `It was ${stateOf(seen.state)[2].toLowerCase()} ${age(seen.at)} ago, at ${clock(seen.at)}.` : "Its state is not known.";
	const anyway = why || pointless(view, job.verb) ? " anyway" : "";
	text({
		"confirm-title": `${label} ${fullName()}${anyway}?`,
		"confirm-text": consequence,
		"confirm-seen": [why, was, note].filter(Boolean).join(" "),
		keep: { running: "Keep it running", stopped: "Keep it stopped" }[seen?.state] ?? "Leave it as it is",
		yes: `${label} ${me.vm || "the VM"}${anyway}`,
	});
	$("yes").classList.toggle("danger", danger !== undefined);
	decide(false);
	clearTimeout(arming);
	$("yes").ariaDisabled = "true";
	arming = setTimeout(() => { $("yes").ariaDisabled = "false"; }, ARMED_MS);
	$("confirm").showModal();
	const yes = await new Promise((resolve) => { decide = resolve; });
	$("confirm").close();
	job.until = Date.now() + 60_000;
	return yes ? job : null;
}

$("keep").addEventListener("click", () => decide(false));
$("yes").addEventListener("click", ({ isTrusted }) => {
	if (isTrusted && $("yes").ariaDisabled === "false") decide(true);
});
$("confirm").addEventListener("close", () => $("confirm").open || decide(false)); // Esc, Back

// Draws Claude's proposals and tells whether each was approved already. Only a person's own signed request approves one.

import { icon, leave, make, setText } from "../base/dom.js";
import { clock, sentence } from "../base/words.js";
import { TOO_OLD, isOldProposal } from "../state/conversation.js";
import { findJob } from "../state/history.js";
import { fullName, mayAnyway, obstacle, reasonOf } from "../state/rules.js";
import { dispatch, getState, subscribe } from "../state/store.js";
import { labelOf, mutates } from "../state/verbs.js";

/** @typedef {{verb: string, vm: string, job: string, why: string}} Approval */

/** The drawn proposals by the id of the job that an approval begins. @type {Map<string, Proposal>} */
const cards = new Map();

export class Proposal {
	#word = make("p.word");
	#choice = make("div.answers-row");

	/** @param {Approval} approval */
	constructor({ verb, vm, job, why }) {
		const known = mutates(verb);
		const name = `${labelOf(verb)} ${fullName(getState(), vm)}`;
		this.element = make("div.proposal", make("b", make("small", known ? "Claude proposes: " : "Claude asked for: "), known ? name : verb),
			make("p", why ? `Why: ${why}` : "Claude gave no reason."), this.#word);
		this.element.dataset.proposal = job;
		cards.set(job, this);
		if (!known) return;
		const approve = make("button.advised", icon(verb), make("span", `${labelOf(verb)}…`));
		Object.assign(approve.dataset, { approve: verb, vm, job, why: `proposed by claude: ${why}`.slice(0, 1_000) });
		const later = make("button", "Not now");
		later.addEventListener("click", () => this.#putOff(later));
		this.#choice.append(approve, later);
	}

	/** Folds a proposal, or unfolds it. @param {Element} later */
	#putOff(later) {
		const off = this.element.classList.toggle("off");
		setText(later, off ? "Show again" : "Not now");
	}

	/** Disables the button of a proposal while the VM's own buttons are disabled.
	 * @param {import("../state/shape.js").State} state  @param {import("../state/conversation.js").Proposal} proposal */
	block(state, { vm, verb }) {
		const view = state.views[vm];
		const button = this.#choice.querySelector("[data-approve]");
		if (button) button.ariaDisabled = String(Boolean(view && obstacle(state, view, verb) && !mayAnyway(view, Date.now())));
	}

	/** @param {import("../state/conversation.js").Proposal} proposal */
	draw({ words, status }) {
		setText(this.#word, words);
		const isShown = this.element.contains(this.#choice);
		if (status === "spent") {
			leave(this.#choice);
			this.#choice.remove();
			this.element.classList.remove("off");
			this.element.classList.add("spent");
			this.#word.prepend(icon(/: done\b/.test(words) ? "check" : "ring"), " ");
		} else if (status !== "held" && !isShown) this.element.append(this.#choice);
	}
}

/** Shows the outcome of an approval. @param {string} verb  @param {any} answer */
function wordsOf(verb, answer) {
	const why = answer.outcome === "refused" ? ` ${sentence(reasonOf(answer))}` : "";
	return `${labelOf(verb)}: ${answer.outcome} at ${clock(Date.now())}.${why}`;
}

/** Asks the host about a proposal that was read from a log. Returns whether its job has ended on the host. @param {string} job */
export async function checkProposal(job) {
	const proposal = getState().proposals[job];
	if (!proposal) return false;
	const isOld = isOldProposal(proposal, Date.now());
	const note = (/** @type {string} */ words, /** @type {string} */ status = "") => dispatch("proposal-noted", { job, words, status });
	if (isOld || !proposal.words) note(isOld ? TOO_OLD : "Checking whether this was approved already…");
	if (isOld) return false;
	const found = await findJob(proposal.vm, job);
	if (found === undefined) note("This page could not check whether the proposal was approved already. Press the button to try again.", "unsure");
	if (found === null) note("", "open");
	if (!found) return false;
	const began = Date.parse(found.started) - getState().clockOff;
	const how = found.outcome ? `${found.outcome} at ${clock(began + 1e3 * (found.seconds ?? 0))}` : `under way since ${clock(began)}`;
	note(`${labelOf(found.verb)}: ${how}.`, "spent");
	return Boolean(found.outcome);
}

subscribe((state, before, { type, job, id, verb, answer }) => {
	const { proposals } = state;
	if (state.views !== before.views) for (const [each, card] of cards) if (proposals[each]) card.block(state, proposals[each]);
	for (const [each, card] of proposals === before.proposals ? [] : cards) {
		if (!proposals[each]) cards.delete(each); // forgotten
		else if (proposals[each] !== before.proposals[each]) card.draw(proposals[each]);
	}
	if (type === "proposal-pressed" && ["held", "unsure"].includes(proposals[job]?.status)) checkProposal(job);
	if (type === "settled" && mutates(verb) && answer.reached) {
		dispatch("proposal-noted", { job: id, words: wordsOf(verb, answer), status: "spent" });
	}
});

// One turn of the conversation, drawn as its events come.

import { appendText, icon, make, makePre, setText } from "./dom.js";
import { fullName } from "./rules.js";
import { getState } from "./store.js";
import { labelOf, mutates } from "./verbs.js";

/** @type {Map<string, HTMLElement>} the buttons of proposals, by id */
const proposals = new Map();

/** Why it can't be pressed, or how it ended: an id that is spent acts no more. @param {string} id  @param {string} words  @param {boolean} [spent] */
export function noteProposal(id, words, spent) {
	const button = proposals.get(id);
	if (!button?.lastElementChild) return;
	setText(button.lastElementChild, words);
	if (!spent) return;
	delete button.dataset.approve;
	button.ariaDisabled = "true";
}

/** @typedef {{n: number, text: string, box: HTMLElement}} Piece */

export class Turn {
	n = 0;
	at = 0;
	done = false;
	recap = false;
	/** @type {HTMLElement|undefined} */
	ending;
	/** @type {Piece[]} */
	#texts = [];
	/** @type {Map<string, {what: string, box: HTMLElement}>} */
	#tools = new Map();
	/** @type {HTMLElement|null} */
	#box = null;

	/** @param {string} id  @param {string} prompt  @param {string} [body] */
	constructor(id, prompt, body) {
		this.id = id;
		this.prompt = prompt;
		this.body = body;
		const box = make("div.prompt");
		appendText(box, prompt);
		this.element = make("article", make("b", "You"), box, make("b", "Claude"));
	}

	get answer() {
		return this.#texts.map((each) => each.text).join("");
	}

	/** @param {{n: number, text: string, retract?: number}} event */
	text({ n, text, retract }) {
		if (retract) {
			for (const { box } of this.#texts) box.replaceChildren();
			this.#texts = this.#texts.filter((each) => each.n < retract);
			for (const each of this.#texts) appendText(each.box, each.text);
			return;
		}
		this.#box ??= this.#put(make("div.answer"));
		const box = this.#box;
		this.#texts.push({ n, text, box });
		appendText(box, text);
	}

	/** @template {HTMLElement} T @param {T} element */
	#put(element) {
		this.element.append(element);
		return element;
	}

	/** @template {HTMLElement} T @param {T} element */
	#putBlock(element) {
		this.#box = null;
		return this.#put(element);
	}

	/** A tool call begins. Returns what it runs. @param {{id: string, name: string, input: any}} event */
	tool({ id, name, input }) {
		const what = input?.command ?? `${name} ${JSON.stringify(input)}`;
		this.#tools.set(id, { what, box: this.#putBlock(make("details.tool", make("summary", icon("working"), make("span", `running: ${what}`)))) });
		return what.slice(0, 100);
	}

	/** @param {{id: string, ok: boolean, text: string, cut?: boolean}} event */
	tool_result({ id, ok, text, cut }) {
		const { what, box } = this.#tools.get(id) ?? { what: id, box: this.#putBlock(make("details.tool")) };
		const title = make("summary", icon(ok ? "check" : "cross"), make("span", `${ok ? "ran" : "failed"}: ${what}`));
		box.replaceChildren(title, makePre(`${text}${cut ? "\n(cut here)" : ""}`));
	}

	/** A person's own signed request is the approval. @param {{verb: string, vm: string, job: string, why: string}} event */
	approval({ verb, vm, job, why }) {
		const known = mutates(verb);
		const name = fullName(getState(), vm);
		const card = make("div.proposal", make("b", known ? `Claude proposes: ${labelOf(verb)} ${name}` : `Claude asked for: ${verb}`),
			make("p", why ? `Why: ${why}` : "It gave no reason."));
		card.dataset.proposal = job;
		const button = make("button.advised", make("span", "Approve…"), make("small"));
		Object.assign(button, { type: "button" });
		Object.assign(button.dataset, { approve: verb, vm, job, why: `proposed by claude: ${why}`.slice(0, 1_000) });
		if (known) card.append(button);
		proposals.set(job, button);
		this.#putBlock(card);
	}

	/** @param {{n: number, ok: boolean, text: string, seconds?: number}} event */
	result({ n, ok, text, seconds }) {
		if (ok && text && !this.answer) this.text({ n, text });
		this.#putBlock(make("small", icon(ok ? "check" : "cross"), ` ${Math.round(seconds ?? 0)} s`));
	}

	/** How it ended, if not with an answer. @param {string} [words] */
	end(words) {
		this.ending?.remove();
		this.ending = words ? make("p", icon("cross"), make("span", words)) : undefined;
		if (this.ending) this.element.append(this.ending);
	}
}

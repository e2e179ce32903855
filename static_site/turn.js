// One turn of the conversation, drawn as its events come, or from a replay of them.

import { appendText, icon, leave, make, setText } from "./dom.js";
import { Markdown, makeCopy } from "./render_markdown.js";
import { fullName } from "./rules.js";
import { getState } from "./store.js";
import { VERBS, labelOf, mutates } from "./verbs.js";
import { clock, span } from "./words.js";

const LAST = 8; // lines of a long output
const WIDEST = 2_000; // characters of them

/** @type {Map<string, Proposal>} by id */
const proposals = new Map();

/** Why it can't be pressed, or how it ended. `spent`: its id acts no more; false offers what a replay held back.
 * @param {string} id  @param {string} words  @param {boolean} [spent] */
export function noteProposal(id, words, spent) {
	proposals.get(id)?.note(words, spent);
}

/** @typedef {{verb: string, vm: string, job: string, why: string}} Approval */

/** A person's own signed request is the approval. */
class Proposal {
	#word = make("p.word");
	/** @type {HTMLElement|undefined} */
	#choice;

	/** @param {Approval} approval  @param {boolean} isHeld its button waits until it is known to be open */
	constructor({ verb, vm, job, why }, isHeld) {
		const known = mutates(verb);
		const name = `${labelOf(verb)} ${fullName(getState(), vm)}`;
		this.element = make("div.proposal", make("b", make("small", known ? "Claude proposes: " : "Claude asked for: "), known ? name : verb),
			make("p", why ? `Why: ${why}` : "Claude gave no reason."), this.#word);
		this.element.dataset.proposal = job;
		if (!known) return;
		const approve = make("button.advised", icon(VERBS[verb].icon), make("span", `${labelOf(verb)}…`));
		Object.assign(approve.dataset, { approve: verb, vm, job, why: `proposed by claude: ${why}`.slice(0, 1_000) });
		const later = make("button", "Not now");
		later.addEventListener("click", () => this.#putOff(later));
		for (const button of [approve, later]) button.setAttribute("type", "button");
		this.#choice = make("div.answers-row", approve, later);
		if (!isHeld) this.element.append(this.#choice);
	}

	/** Out of the way, and back. @param {Element} later */
	#putOff(later) {
		const off = this.element.classList.toggle("off");
		setText(later, off ? "Show again" : "Not now");
	}

	/** @param {string} words  @param {boolean} [spent] */
	note(words, spent) {
		setText(this.#word, words);
		if (spent === undefined || !this.#choice) return;
		if (!spent) return this.element.append(this.#choice);
		leave(this.#choice);
		this.#choice.remove();
		this.element.classList.remove("off");
		this.element.classList.add("spent");
		this.#word.prepend(icon(/: done\b/.test(words) ? "check" : "ring"), " ");
	}
}

/** One command or look of Claude's, folded to a line. */
class Tool {
	#line = make("span");
	#isLook;
	isProposal = false;
	element = make("details.tool");

	/** @param {string} name  @param {any} input */
	constructor(name, input) {
		const { command, file_path: path, pattern } = input ?? {};
		this.what = String(command ?? [name, pattern, path].filter(Boolean).join(" "));
		this.#isLook = name !== "Bash" || /^pve \w+$/.test(this.what);
		this.#head("working", `${this.#isLook ? "Looking at" : "Running"}: ${this.what}`);
		this.element.querySelector(".i")?.classList.add("live");
	}

	/** @param {string} mark  @param {string} words */
	#head(mark, words) {
		setText(this.#line, words);
		this.element.replaceChildren(make("summary", icon(mark), this.#line));
	}

	/** @param {{ok: boolean, text: string, cut?: boolean}} result */
	end({ ok, text, cut }) {
		const asked = !ok && /^Exit code 16$[^]*^approval-required: (\w+)$/m.exec(text)?.[1];
		this.isProposal = this.what.trim() === `pve ${asked}`;
		if (asked && this.isProposal) this.#head(VERBS[asked]?.icon ?? "look", `Asked for: ${labelOf(asked)}`);
		else if (ok) this.#head(this.#isLook ? "look" : "check", `${this.#isLook ? "Looked at" : "Ran"}: ${this.what}`);
		else this.#head("cross", `Failed: ${this.what}`);
		this.#addOutput(`${text.trimEnd()}${cut ? "\n(cut here)" : ""}`);
	}

	/** It never answered. */
	drop() {
		if (!this.element.querySelector("pre")) this.#head("cross", `Not finished: ${this.what}`);
	}

	/** Its last lines; all of them at a press. There is no box to scroll within the transcript. @param {string} text */
	#addOutput(text) {
		const lines = text.split("\n");
		const end = lines.length > LAST + 2 ? lines.slice(-LAST).join("\n") : text;
		const short = end.slice(-WIDEST);
		const pre = make("pre");
		pre.tabIndex = 0;
		appendText(pre, `${short.length < end.length ? "…" : ""}${short}`);
		const row = make("div.answers-row", makeCopy(() => text));
		if (short.length < text.length) {
			const all = make("button.bare", lines.length > LAST ? `All ${lines.length} lines` : "Show all");
			all.setAttribute("type", "button");
			all.addEventListener("click", () => {
				pre.replaceChildren();
				appendText(pre, text);
				pre.focus();
				all.remove();
			});
			row.prepend(all);
		}
		this.element.append(pre, row);
	}
}

/** @typedef {{n: number, text: string}} Piece */
/** A stretch of text between two other things. @typedef {{drawn: Markdown, pieces: Piece[]}} Stretch */

export class Turn {
	n = 0;
	at = 0;
	done = false;
	recap = false;
	/** Its proposals wait until `noteProposal` offers them: nobody knows yet which of them are open. */
	isReplay = false;
	/** When it began, by this device's clock: a replay says when. */
	began = Date.now();
	/** @type {HTMLElement|undefined} */
	ending;
	/** @type {Stretch[]} */
	#stretches = [];
	/** @type {Map<string, Tool>} */
	#tools = new Map();
	/** @type {Stretch|null} what text is added to */
	#open = null;

	/** `own`: the page sent it by itself. @param {string} id  @param {string} prompt  @param {string} [body]  @param {boolean} [own] */
	constructor(id, prompt, body, own = false) {
		this.id = id;
		this.prompt = prompt;
		this.body = body;
		this.own = own;
		const box = make(own ? "div.own" : "div.prompt");
		appendText(box, prompt);
		this.element = make("article", make("h3.said", own ? "This page" : "You"), box, make("h3.said", "Claude"));
	}

	/** What Claude said, as it wrote it. */
	get answer() {
		return this.#stretches.map(({ pieces }) => pieces.map(({ text }) => text).join("")).filter(Boolean).join("\n\n");
	}

	/** The answer as it is read aloud. */
	get spoken() {
		return this.answer.replace(/^[ \t]*(?:```.*|\|?[ \t:|-]*-[ \t:|-]*)$|^#+ |\*\*|`/gm, "").replace(/[ \t]*\|[ \t]*/g, ", ");
	}

	/** @param {{n: number, text?: string, retract?: number}} event */
	text({ n, text = "", retract }) {
		if (retract) return this.#retract(retract);
		if (!this.#open) {
			this.#open = { drawn: new Markdown(), pieces: [] };
			this.#stretches.push(this.#open);
			this.#put(this.#open.drawn.element);
		}
		this.#open.pieces.push({ n, text });
		this.#open.drawn.write(text);
	}

	/** @param {number} first */
	#retract(first) {
		for (const stretch of this.#stretches) {
			const left = stretch.pieces.filter(({ n }) => n < first);
			if (left.length === stretch.pieces.length) continue;
			const again = new Markdown();
			for (const { text } of left) again.write(text);
			if (stretch !== this.#open) again.end();
			stretch.drawn.element.replaceWith(again.element);
			Object.assign(stretch, { pieces: left, drawn: again });
		}
	}

	/** @template {HTMLElement} T @param {T} element */
	#put(element) {
		this.element.append(element);
		return element;
	}

	#endText() {
		this.#open?.drawn.end();
		this.#open = null;
	}

	/** @param {HTMLElement} element */
	#putBlock(element) {
		this.#endText();
		this.#put(element);
	}

	/** A tool call begins. Returns what it runs. @param {{id: string, name: string, input: any}} event */
	tool({ id, name, input }) {
		const tool = new Tool(name, input);
		this.#tools.set(id, tool);
		this.#putBlock(tool.element);
		return tool.what.slice(0, 100);
	}

	/** @param {{id: string, ok: boolean, text: string, cut?: boolean}} event */
	tool_result(event) {
		if (!this.#tools.has(event.id)) this.tool({ id: event.id, name: event.id, input: {} });
		this.#tools.get(event.id)?.end(event);
	}

	/** @param {Approval} event */
	approval(event) {
		const proposal = new Proposal(event, this.isReplay);
		proposals.set(event.job, proposal);
		this.#putBlock(proposal.element);
	}

	/** @param {{n: number, ok: boolean, text: string, seconds?: number, cost_usd?: number}} event */
	result({ n, ok, text, seconds = 0, cost_usd: cost }) {
		if (ok && text && !this.answer) this.text({ n, text });
		this.#endText();
		const count = [...this.#tools.values()].filter(({ isProposal }) => !isProposal).length;
		const day = new Date(this.began).toDateString() === new Date().toDateString() ? "" : `${new Date(this.began).toLocaleDateString("en-GB", { day: "numeric", month: "short" })} `;
		const words = [day + clock(this.began), span(1e3 * seconds), count && `${count} command${count > 1 ? "s" : ""}`, cost && `${cost.toFixed(2)} USD`];
		this.#put(make("div.meta", make("small", icon(ok ? "check" : "cross"), ` ${words.filter(Boolean).join(", ")}`), this.answer ? makeCopy(() => this.answer) : ""));
	}

	/** How it ended, if not with an answer. @param {string} [words] */
	end(words) {
		this.ending?.remove();
		this.ending = words ? make("p.ended", icon("cross"), make("span", words)) : undefined;
		if (!this.ending) return;
		for (const tool of this.#tools.values()) tool.drop();
		this.#put(this.ending); // the rest of the text may come yet
	}
}

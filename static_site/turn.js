// One turn of the conversation, drawn as its events come, or from a replay of them.

import { appendText, icon, make } from "./dom.js";
import { spoken } from "./markdown.js";
import { Markdown, makeCopy } from "./render_markdown.js";
import { Proposal, Tool } from "./turn_parts.js";
import { clock, span } from "./words.js";

/** @typedef {import("./turn_parts.js").Approval} Approval */

/** @type {Map<string, Proposal>} by id */
const proposals = new Map();

/** Why it can't be pressed, or how it ended. `spent`: its id acts no more; false offers what a replay held back.
 * @param {string} id  @param {string} words  @param {boolean} [spent] */
export function noteProposal(id, words, spent) {
	proposals.get(id)?.note(words, spent);
}

/** @typedef {{n: number, text: string}} Piece */
/** A stretch of text between two other things. @typedef {{drawn: Markdown, pieces: Piece[]}} Stretch */

export class Turn {
	n = 0;
	at = 0;
	done = false;
	recap = false;
	/** Its proposals wait until `noteProposal` offers them: until then it is not known which of them are open. */
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
		const edit = Object.assign(make("button.bare", "Edit"), { type: "button" }); // puts the question into the composer again
		edit.dataset.edit = prompt;
		this.element = make("article", make("h3.said", own ? "This page" : "You"), box, ...own ? [] : [edit], make("h3.said", "Claude"));
	}

	/** What Claude said, as it wrote it. */
	get answer() {
		return this.#stretches.map(({ pieces }) => pieces.map(({ text }) => text).join("")).filter(Boolean).join("\n\n");
	}

	/** The answer as it is spoken. */
	get spoken() {
		return spoken(this.answer);
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

// Draws one turn of the conversation from its events, as they arrive or from a log.

import { appendText, icon, make } from "../base/dom.js";
import { clock, hostDate, span } from "../base/words.js";
import { spoken } from "./markdown.js";
import { Proposal } from "./proposals.js";
import { Markdown, makeCopy } from "./render_markdown.js";
import { Tool } from "./tool.js";

/** @typedef {{n: number, text: string}} Piece */
/** The text between two tool calls or proposals. @typedef {{drawn: Markdown, pieces: Piece[]}} Stretch */

export class Turn {
	/** The number of the last event that is drawn. */
	n = 0;
	/** How the turn ended, in the words of the handler. @type {{ok: boolean}|null} */
	done = null;
	/** @type {HTMLElement|undefined} */
	ending;
	/** @type {Stretch[]} */
	#stretches = [];
	/** @type {Map<string, Tool>} */
	#tools = new Map();
	/** @type {Stretch|null} the element to which new text is added */
	#open = null;

	/** @param {import("../state/conversation.js").Turn} turn */
	constructor({ prompt, own, began }) {
		this.began = began;
		const box = make(own ? "div.own" : "div.prompt");
		appendText(box, prompt);
		const edit = make("button.bare", "Edit"); // this button puts the question into the composer again
		edit.dataset.edit = prompt;
		this.element = make("article", make("h3.said", own ? "This page" : "You"), box, ...own ? [] : [edit], make("h3.said", "Claude"));
	}

	/** Claude's answer, with its Markdown. */
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

	/** Shows that a tool call began. Returns at most 100 characters of its command or file. @param {{id: string, name: string, input: any}} event */
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

	/** @param {import("./proposals.js").Approval} event */
	approval(event) {
		this.#putBlock(new Proposal(event).element);
	}

	/** @param {{n: number, ok: boolean, text: string, seconds?: number, cost_usd?: number}} event */
	result({ n, ok, text, seconds = 0, cost_usd: cost }) {
		if (ok && text && !this.answer) this.text({ n, text });
		this.#endText();
		const count = [...this.#tools.values()].filter(({ isProposal }) => !isProposal).length;
		const at = hostDate(this.began);
		const day = at.toDateString() === hostDate(Date.now()).toDateString() ? "" : `${at.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} `;
		const words = [day + clock(this.began), span(1e3 * seconds), count && `${count} command${count > 1 ? "s" : ""}`, cost && `${cost.toFixed(2)} USD`];
		this.#put(make("div.meta", make("small", icon(ok ? "check" : "cross"), ` ${words.filter(Boolean).join(", ")}`), this.answer ? makeCopy(() => this.answer) : ""));
	}

	/** Shows how the turn ended, if it has no answer. @param {string} [words] */
	end(words) {
		this.ending?.remove();
		this.ending = words ? make("p.ended", icon("cross"), make("span", words)) : undefined;
		if (!this.ending) return;
		for (const tool of this.#tools.values()) tool.drop();
		this.#put(this.ending); // the notice is removed again if the rest of the answer arrives
	}
}

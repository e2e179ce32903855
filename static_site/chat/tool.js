// Draws a command that Claude runs, with its output.

import { appendText, icon, make, setText } from "../base/dom.js";
import { labelOf, mutates } from "../state/verbs.js";
import { makeCopy } from "./render_markdown.js";

const LAST = 8; // lines of a long output
const WIDEST = 2_000; // characters of them

/** One command or file that Claude runs or reads, folded to a line. */
export class Tool {
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
		if (asked && this.isProposal) this.#head(mutates(asked) ? asked : "look", `Asked for: ${labelOf(asked)}`);
		else if (ok) this.#head(this.#isLook ? "look" : "check", `${this.#isLook ? "Looked at" : "Ran"}: ${this.what}`);
		else this.#head("cross", `Failed: ${this.what}`);
		this.#addOutput(`${text.trimEnd()}${cut ? "\n(cut here)" : ""}`);
	}

	/** Shows that the tool never answered. */
	drop() {
		if (!this.element.querySelector("pre")) this.#head("cross", `Not finished: ${this.what}`);
	}

	/** Adds the last lines of the output, and a button that shows all lines, so that no box scrolls inside the transcript. @param {string} text */
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

// The words about a turn that has no answer, and about what a person can do.

import { minute, sentence, troubleOf } from "../base/words.js";

export const CALM = "The power buttons do not need Claude.";
const NEW_TALK = "Start a new conversation, and Claude gets what was said so far";
/** @type {Record<string, string>} what a person at the page can do, for errors whose own hint is meant for a program */
const HINTS = {
	__proto__: /** @type {any} */ (null),
	"session-lost": NEW_TALK,
	"session-invalid": NEW_TALK,
};

/** @param {string} why */
export const notAnswering = (why) => `Claude is not answering: ${why}.`;

/** Returns the last line of a turn that has no answer. @param {{code: string, message?: string}} error */
export function endingOf({ code, message }) {
	if (code === "cancelled") return "Stopped. Commands inside the VM may still run.";
	return code === "turn-unknown" ? "Cut off: Breakglass no longer has the rest." : `No answer: ${message || troubleOf(code)}`;
}

/** Returns the notice above the conversation, and whether Claude is down. @param {any} error  @param {boolean} [isRecap]
 * @returns {import("../state/conversation.js").Failure} */
export function failureOf({ code, message, hint }, isRecap) {
	const down = /^claude-|^turn-timeout$|^chat-not-isolated$/.test(code);
	const words = message || troubleOf(code);
	const when = /until [\d:]+|exit \d+|signal \d+/.exec(words)?.[0];
	const what = down ? notAnswering(`${troubleOf(code)}${when ? ` (${when})` : ""}, ${minute(Date.now())}`) : sentence(words);
	const next = sentence(HINTS[code] ?? hint);
	return {
		notice: [what, next, down && !/power/.test(hint) && CALM].filter(Boolean).join(" "),
		trouble: down ? code : "",
		lost: Boolean(isRecap) || /^session-(lost|invalid)$/.test(code),
	};
}

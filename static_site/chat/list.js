// The conversations that the handler has.

import { make } from "../base/dom.js";
import { newId, post } from "../base/send.js";
import { visible } from "../base/words.js";

/** @typedef {import("../state/conversation.js").Talk} Talk */
/** @typedef {{code?: string, message?: string, hint?: string}} Trouble */

/** @param {Record<string, unknown>} body  @param {AbortSignal} signal  @param {(line: any) => void} [take] */
export const ask = (body, signal, take) => post("chat", newId(), JSON.stringify(body), signal, take);

/** The caller's conversations, newest first. @param {AbortSignal} signal  @returns {Promise<{talks: Talk[], trouble?: Trouble}>} */
export async function listTalks(signal) {
	const answer = await ask({ list: true }, signal);
	return answer?.sessions ? { talks: answer.sessions } : { talks: [], trouble: troubleIn(answer) };
}

/** @param {any} answer  @returns {Trouble} */
export const troubleIn = (answer) => (answer?.error?.code ? answer.error : { message: "no answer came back" });

/** @param {string} at */
const when = (at) => new Date(at).toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

/** The rows of a list of conversations; a press opens one. @param {Talk[]} talks  @param {string|undefined} shown  the id of the conversation that is shown */
export function makeTalkRows(talks, shown) {
	return talks.map(({ id, vm, words, at, session, turn }) => {
		const more = [when(at), vm, turn ? "under way" : "", id === shown ? "shown now" : ""].filter(Boolean).join(", ");
		const button = make("button.row", make("span", make("b", words || "(empty)"), make("span", more)));
		Object.assign(button.dataset, { talk: session, talkId: visible(id), talkVm: vm });
		return make("li", button);
	});
}

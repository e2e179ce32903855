// Conversations that the handler has: which there are, and what was said in one.

import { make } from "./dom.js";
import { newId, post } from "./send.js";
import { visible } from "./words.js";

/** A turn as its log has it. @typedef {{turn: string, prompt: string, at: string, tools: string, events: any[]}} PastTurn */
/** @typedef {{session: string|null, id: string, vm: string, left_out: number, cost_usd: number, turn: string|null}} Replayed */
/** @typedef {{id: string, vm: string, words: string, at: string, session: string, turn: string|null}} Talk */
/** @typedef {{code?: string, message?: string, hint?: string}} Trouble */

/** @param {Record<string, unknown>} body  @param {AbortSignal} signal  @param {(line: any) => void} [take] */
const ask = (body, signal, take) => post("chat", newId(), JSON.stringify(body), signal, take);

/** The caller's conversations, newest first. @param {AbortSignal} signal  @returns {Promise<{talks: Talk[], trouble?: Trouble}>} */
export async function listTalks(signal) {
	const answer = await ask({ list: true }, signal);
	return answer?.sessions ? { talks: answer.sessions } : { talks: [], trouble: troubleIn(answer) };
}

/** All of a conversation; without `end` it did not come whole. @param {string} session  @param {AbortSignal} signal
 * @returns {Promise<{turns: PastTurn[], end?: Replayed, trouble?: Trouble}>} */
export async function replayTalk(session, signal) {
	/** @type {PastTurn[]} */
	const turns = [];
	const answer = await ask({ session, replay: true }, signal, (line) => {
		if (line.type === "turn") turns.push({ ...line, events: [] });
		else if (!["ping", "replayed"].includes(line.type)) turns.at(-1)?.events.push(line);
	});
	return answer?.type === "replayed" ? { turns, end: answer } : { turns, trouble: troubleIn(answer) };
}

/** @param {any} answer  @returns {Trouble} */
const troubleIn = (answer) => (answer?.error?.code ? answer.error : { message: "no answer came back" });

const PIECE = 8_000; // characters that are drawn at once

/** The events of a turn without what was retracted, and with the words between two others in as few texts as can be.
 * The last words of a turn that goes on stay apart, because they may still be retracted.
 * @param {any[]} events  @param {boolean} goesOn  @returns {any[]} */
export function joinTexts(events, goesOn) {
	const retracted = new Set();
	for (const { type, n, retract } of events) {
		if (type !== "text" || !retract) continue;
		for (const each of events) if (each.type === "text" && each.n >= retract && each.n <= n) retracted.add(each);
	}
	const left = events.filter((each) => !retracted.has(each));
	const lastOther = left.findLastIndex(({ type }) => type !== "text");
	/** @type {any[]} */
	const joined = [];
	left.forEach((event, place) => {
		const before = joined.at(-1);
		if (event.type === "text" && before?.type === "text" && before.text.length < PIECE && !(goesOn && place > lastOther)) before.text += event.text;
		else joined.push({ ...event });
	});
	return joined;
}

/** @param {string} at */
const when = (at) => new Date(at).toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

/** The rows of a list of conversations; a press opens one. @param {Talk[]} talks  @param {string|undefined} shown  the id of the one that is shown */
export function makeTalkRows(talks, shown) {
	return talks.map(({ id, vm, words, at, session, turn }) => {
		const more = [when(at), vm, turn ? "under way" : "", id === shown ? "shown now" : ""].filter(Boolean).join(", ");
		const button = make("button.row", make("span", make("b", words || "(empty)"), make("span", more)));
		Object.assign(button, { type: "button" });
		Object.assign(button.dataset, { talk: session, talkId: visible(id), talkVm: vm });
		return make("li", button);
	});
}

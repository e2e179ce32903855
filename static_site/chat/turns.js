// Sends the turns of the conversation with Claude, and reads each answer. A stream without its last line is not an answer.

import { $, followEnd, setText } from "../base/dom.js";
import { newId, post, sleep, young } from "../base/send.js";
import { OWN } from "../base/storage.js";
import { LIMIT_USD } from "../state/conversation.js";
import { opinionOf } from "../state/rules.js";
import { chatOf, dispatch, getState, subscribe, viewOf } from "../state/store.js";
import { drawingOf, drawnTurn, dropDrawing, newFlight, scrollToEnd, whyNot } from "./drawings.js";
import { endingOf, failureOf } from "./errors.js";
import { drawEvent, readChat } from "./replay.js";
import { showTalks } from "./view.js";

export { scrollToEnd } from "./drawings.js";
export { editPrompt, renderChat, showTalks } from "./view.js";

/** @typedef {import("../state/conversation.js").Turn} Turn */

const RECAP = 40_000; // characters, because a body may have at most 256 KiB
const CHECK = "The operator approved your proposal, and the verb has ended. Check the VM, and say in a few sentences how it is now.";
const prompt = /** @type {HTMLTextAreaElement} */ ($("prompt"));

/** Continues the turn that was under way before a reload. @param {string} vm */
export function resumeChat(vm) {
	const { cut, turn, log } = chatOf(vm);
	if (!cut || cut.body || turn) return;
	if (log === "unread") readChat(vm);
	else if (log === "read") follow(vm, cut);
}

/** Shows another conversation about a VM, or a new one if `session` is missing. @param {string} vm  @param {string} [session]  @param {string} [id] */
export function openTalk(vm, session, id) {
	const before = chatOf(vm);
	showTalks(false);
	if (session && id === before.id) { // the conversation is shown already, but another tab may have continued it
		if (session !== before.session && !before.turn && before.log !== "reading") dispatch("session-moved", { vm, session });
		return;
	}
	dropDrawing(before);
	dispatch("chat-opened", { vm, kept: { session, id } });
}

/** Sends the composer's text, or `words`. With `recap`, starts a new conversation, and sends Claude the text of the earlier one. @param {boolean} [recap]  @param {string} [words] */
export function sendPrompt(recap = false, words = "") {
	const { vm } = getState();
	const chat = chatOf(vm);
	const question = words || prompt.value.trim() || (recap ? "Go on." : "");
	if (!question || whyNot(chat)) return;
	const earlier = chat.turns.filter(({ answer }) => answer).map((turn) => `Operator: ${turn.prompt}\nYou: ${turn.answer}`).join("\n\n");
	const told = recap ? `The earlier conversation was lost. Said so far:\n\n${earlier.slice(-RECAP)}\n\nNow: ${question}` : question;
	if (recap) dispatch("session-came", { vm });
	if (!words) prompt.value = "";
	send(vm, newId(), question, told, { recap });
}

/** Sends a turn. If the page sends the turn by itself, nothing scrolls, because a person may be reading.
 * @param {string} vm  @param {string} id  @param {string} question  @param {string} told  @param {Partial<Turn>} more  @param {boolean} [isPressed] */
function send(vm, id, question, told, more, isPressed = true) {
	const { session } = chatOf(vm);
	const about = session ? undefined : opinionOf(viewOf(vm), Date.now())?.id;
	const body = JSON.stringify({ prompt: told, vm: vm || undefined, session, tools: more.own ? "host" : undefined, about });
	const scroll = isPressed ? scrollToEnd : followEnd($("transcript"));
	if (isPressed) showTalks(false);
	follow(vm, { id, prompt: question, own: false, began: Date.now(), body, ...more });
	scroll();
}

/** Tells Claude that a verb ended, if the verb was proposed in the conversation that is shown. @param {string} vm  @param {string} job */
export async function verbEnded(vm, job) {
	if (chatOf(vm).log !== "read") await readChat(vm);
	if (getState().proposals[job]?.talk !== chatOf(vm).number) return;
	dispatch("check-due", { vm, check: { job, byHand: false } });
	letClaudeCheck(vm);
}

/** Sends the turn that follows an approved verb. While the conversation is cheap, this needs no press.
 * @param {string} [vm]  @param {boolean} [isPressed] */
export function letClaudeCheck(vm = getState().vm, isPressed = false) {
	const chat = chatOf(vm);
	const { check } = chat;
	if (!check || !chat.session || whyNot(chat)) return;
	const id = isPressed ? newId() : `msg-after-${check.job}`.slice(0, 64); // two tabs send the same id, so that there is only one turn
	if (!isPressed && chat.turns.some((turn) => turn.id === id)) dispatch("check-due", { vm, check: null });
	else if (isPressed || (!check.byHand && chat.log === "read" && chat.cost < LIMIT_USD)) send(vm, id, CHECK, CHECK, { own: true }, isPressed);
}

/** Asks for the rest of a turn that was cut off, or for the earlier turns. */
export function askForRest() {
	const { vm } = getState();
	const { log, cut, turn } = chatOf(vm);
	if (log === "failed") readChat(vm);
	else if (log === "read" && cut && !turn) follow(vm, cut);
}

/** Sends the body of a turn, which starts or joins the turn. Once a part of the turn has arrived, sends `attach`, which starts nothing.
 * @param {string} vm  @param {Turn} turn */
async function follow(vm, turn) {
	const drawn = drawnTurn(chatOf(vm), turn);
	const signal = newFlight(chatOf(vm));
	const heard = { at: Date.now() };
	let { body } = turn;
	drawn.end();
	dispatch("turn-begun", { vm, turn });
	const fail = (/** @type {any} */ error) => failed(vm, turn, drawn, error);
	const take = (/** @type {any} */ event) => {
		if (event.type === "ping" || event.n <= drawn.n) return; // this event arrived before the connection was lost
		heard.at = Date.now();
		const scroll = followEnd($("transcript"));
		const tool = drawEvent(chatOf(vm), drawn, event);
		if (event.type === "tool") say(vm, `Claude is working: running ${tool}`);
		else if (event.type === "session" && event.session) dispatch("session-came", { vm, session: event.session, id: event.id });
		else if (event.type === "result") dispatch("turn-cost", { vm, usd: event.cost_usd ?? 0 });
		else if (event.type === "error") fail(event);
		scroll();
	};
	for (let pause = 1_000; !drawn.done; pause = Math.min(2 * pause, 8_000)) {
		const seen = drawn.n;
		const attach = JSON.stringify({ attach: turn.id, after: seen || undefined, session: chatOf(vm).session });
		const answer = await (seen || !body ? post("chat", newId(), attach, signal, take) : post("chat", turn.id, body, signal, take));
		if (signal.aborted) return;
		if (drawn.done) break;
		const error = answer?.error;
		if (error?.code === "id-reused" && turn.own && body) {
			body = undefined; // another tab sent the same turn first, with another token
			continue;
		}
		if (error?.code && error.code !== "shutting-down") {
			fail(error);
			break;
		}
		if (drawn.n > seen) pause = 1_000;
		if (!young(heard)) {
			drawn.end("The connection was lost, so this is not the whole answer.");
			return dispatch("turn-cut", { vm });
		}
		say(vm, "The connection was lost; asking for the rest…");
		await sleep(pause, signal);
	}
	const { done, answer, spoken } = drawn;
	if (done) say(vm, done.ok ? spoken || "Claude ended without an answer." : chatOf(vm).failure.notice || "Stopped.");
	dispatch("turn-ended", { vm, turn, ok: done?.ok, answer });
	letClaudeCheck(vm);
}

/** @param {string} vm  @param {Turn} turn  @param {import("./turn.js").Turn} drawn  @param {any} error */
function failed(vm, turn, drawn, error) {
	drawn.end(endingOf(error));
	if (error.code === "cancelled") return;
	const words = drawn.answer || turn.own ? "" : turn.prompt;
	if (vm === getState().vm) prompt.value ||= words;
	dispatch("turn-failed", { vm, words, failure: error.code === "turn-unknown" ? undefined : failureOf(error, turn.recap) });
}

/** Ends the turn that is under way. */
export async function stopTurn() {
	const { vm } = getState();
	const { turn } = chatOf(vm);
	const { flight, turns } = drawingOf();
	if (!turn || !flight) return;
	say(vm, "Stopping…");
	for (;;) {
		const n = turns.get(turn.id)?.n;
		const answer = await post("chat", newId(), JSON.stringify({ cancel: turn.id, session: chatOf(vm).session }), flight.signal);
		if (answer?.cancelled || chatOf(vm).turn !== turn) return;
		const { code, message = "no answer came back" } = answer?.error ?? {};
		if (code !== "turn-unknown" || n) return say(vm, `Not stopped: ${message}. Press Stop again.`);
		await sleep(500, flight.signal); // the handler does not have the turn yet
	}
}

/** Tells a screen reader these words, because the transcript itself is silent. @param {string} vm  @param {string} words */
function say(vm, words) {
	dispatch("turn-said", { vm, words });
	if (vm === getState().vm) setText($("chat-live"), words.slice(0, 4_000));
}

subscribe((state, _, { type, vm = state.vm }) => {
	if (type !== "log-came") return;
	const { cut } = state.chats[vm];
	if (cut) follow(vm, cut);
	else letClaudeCheck(vm);
});
// Reads the conversation again after another tab has continued it.
addEventListener("storage", ({ key, newValue }) => {
	for (const [vm, { id, session, turn, log }] of Object.entries(getState().chats)) {
		const kept = key === `${OWN}chat ${vm}` && JSON.parse(newValue ?? "null");
		if (!kept?.session || kept.session === session || turn || log === "reading" || id !== kept.id) continue; // the page shows another conversation now
		dispatch("session-moved", { vm, session: kept.session });
	}
});

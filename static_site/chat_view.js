// What there is to see of the conversation but its turns: the notice, the composer, the list of earlier conversations.

import { CALM, notAnswering } from "./chat_errors.js";
import { readChat } from "./chat_log.js";
import { LIMIT_USD, chatOf, whyNot } from "./chats.js";
import { $, make, setShown, setTexts } from "./dom.js";
import { chatDown, isAway } from "./rules.js";
import { getState } from "./store.js";
import { listTalks, makeTalkRows } from "./talks.js";
import { sentence, troubleOf } from "./words.js";

/** @typedef {import("./chats.js").Chat} Chat */

const prompt = /** @type {HTMLTextAreaElement} */ ($("prompt"));
const transcript = $("transcript");
/** @type {Chat|undefined} the one in the page */
let shown;
/** @type {AbortController|null} of the list of conversations, while it is shown */
let listing = null;

let wasAway = false;

/** What is written for a conversation; `words` are put there if nothing is. @param {Chat} chat  @param {string} [words] */
export function takeDraft(chat, words = "") {
	if (chat === shown) {
		prompt.value ||= words;
		return prompt.value;
	}
	chat.draft ||= words;
	return chat.draft;
}

/** Puts a question into the composer again. @param {string} words */
export function editPrompt(words) {
	prompt.value = words;
	prompt.focus();
	prompt.setSelectionRange(words.length, words.length);
}

/** Shows the earlier conversations in place of this one, or this one again. @param {boolean} [wanted] */
export async function showTalks(wanted = !listing) {
	listing?.abort();
	listing = wanted ? new AbortController() : null;
	const { signal } = listing ?? {};
	renderChat();
	if (!signal) return;
	$("talks").replaceChildren(make("li", "Loading…"));
	const { talks, trouble } = await listTalks(signal);
	if (signal.aborted) return;
	const rows = makeTalkRows(talks, chatOf().id);
	const none = trouble ? `Your conversations could not be listed: ${trouble.message}` : "No conversations in the last 30 days";
	$("talks").replaceChildren(...rows.length ? rows : [make("li", sentence(none))]);
}

/** @param {Chat} chat */
function costOf({ cost }) {
	if (!cost) return "";
	const words = `${cost.toFixed(2)} of ${LIMIT_USD.toFixed(2)} USD`;
	return cost < LIMIT_USD ? words : `${words}: Claude no longer checks by itself`;
}

/** Draws the conversation about the shown VM. */
export function renderChat() {
	const chat = chatOf();
	if (chat !== shown) {
		if (shown) {
			shown.draft = prompt.value;
			prompt.value = chat.draft;
		} // else a person may have written before this was loaded
		transcript.replaceChildren(chat.box);
		shown = chat;
		noteEnd();
	}
	const state = getState();
	const focused = document.activeElement;
	const isFound = wasAway && !isAway(state);
	wasAway = isAway(state);
	if (mayRead(chat) && (chat.log === "unread" || (isFound && chat.log === "failed"))) readChat(chat);
	const why = whyNot(chat);
	const down = chatDown(state) && `${notAnswering(troubleOf(chatDown(state)))} ${CALM}`;
	const { notice, lost } = chat.failure;
	const isEmpty = chat.log === "read" && !chat.turns.length && !chat.turn && !chat.cut;
	setTexts({
		"chat-notice": notice || (chat.turn ? "" : why || down),
		"chat-word": chat.turn && chat.word.slice(0, 120),
		"chat-cost": costOf(chat),
		send: notice && !lost && prompt.value ? "Try again" : "Send",
	});
	$("send").ariaDisabled = String(Boolean(why));
	swap(chat.turn ? "send" : "stop-turn", chat.turn ? "stop-turn" : "send");
	setShown({
		recap: lost && !chat.turn,
		"ask-rest": state.unlocked && (chat.cut || chat.log === "failed"),
		"let-check": chat.check && !chat.turn && !why,
		starters: isEmpty && !why && !listing,
		"new-talk": !isEmpty || chat.session,
		talks: listing,
		transcript: !listing,
	});
	$("earlier").ariaExpanded = String(Boolean(listing));
	if (document.activeElement !== focused && document.activeElement === $("headline")) focusNext();
}

/** The button that was pressed is gone: the focus stays in the conversation. */
function focusNext() {
	const places = [$("stop-turn"), $("starters").firstElementChild, transcript];
	const next = /** @type {HTMLElement|undefined} */ (places.find((each) => each?.getClientRects().length));
	next?.focus({ preventScroll: true });
}

/** Whether what was said before is read now: it may be long, so not before it is seen. @param {Chat} chat */
const mayRead = ({ turn }) => !turn && getState().unlocked && getState().health.answer?.chat !== "none" && !wasAway && !document.hidden && transcript.getClientRects().length;

/** One button takes another's place, and its focus. @param {string} gone  @param {string} come */
function swap(gone, come) {
	const hadFocus = document.activeElement === $(gone);
	$(come).hidden = false;
	if (hadFocus) $(come).focus({ preventScroll: true });
	setShown({ [gone]: false });
}

/** Whether there is more below. */
function noteEnd() {
	const { scrollHeight, scrollTop, clientHeight } = transcript;
	const isAtEnd = scrollHeight - scrollTop - clientHeight < 40;
	if (isAtEnd && document.activeElement === $("to-end")) transcript.focus({ preventScroll: true });
	$("to-end").hidden = isAtEnd;
}

transcript.addEventListener("scroll", noteEnd, { passive: true });
if (!CSS.supports("field-sizing", "content")) { // the composer grows all the same
	prompt.addEventListener("input", () => { prompt.rows = Math.min(6, prompt.value.split("\n").length); });
}

// Draws the history as a timeline. Opening a job reads it from the host, which changes nothing.

import { $, fillText, icon, make, makePicture, makePre, pngBlob, setIcon, setList, setText, setTexts } from "../base/dom.js";
import { sleep } from "../base/send.js";
import { clock, hostDate, minute, phraseOf, sentence, span } from "../base/words.js";
import { findJob, refreshHistory } from "../state/history.js";
import { opinionWords } from "../state/rules.js";
import { dispatch, getState, subscribe, viewOf } from "../state/store.js";
import { STAGES, labelOf } from "../state/verbs.js";
import { runVerb } from "./run.js";

/** @typedef {import("../state/shape.js").Job} Job */
/** @typedef {import("../state/shape.js").View} View */

/** The drawn entry of a job. @typedef {{item: HTMLElement, vm: string, job: Job, read: string|null}} Entry */
/** @type {Map<string, Entry>} */
const entries = new Map();
let drawn = "";

/** The job that a link names, which may be missing in the list of jobs, or the reason why there is no such job.
 * @type {{vm: string, id: string, job: Job|null, trouble: string}|null} */
let linked = null;
subscribe(({ unlocked }) => { if (!unlocked) linked = null; });

/** @param {View} view */
export function renderHistory(view) {
	const { jobs, trouble } = withLinked(view);
	const old = view.jobsTrouble && `The history is ${view.jobsTrouble}.`;
	setTexts({ chain: view.chain, "jobs-trouble": [trouble, old].filter(Boolean).join(" ") });
	const key = JSON.stringify([view.vm, jobs.map(({ id, outcome, stage, seen }) => [id, outcome, stage, seen?.length])]);
	if (key === drawn) return;
	drawn = key;
	setText($("zone"), jobs.length ? `All times in ${Intl.DateTimeFormat().resolvedOptions().timeZone}.` : "Nothing yet.");
	/** @type {Map<string, Element[]>} */
	const byDay = new Map();
	for (const job of jobs) {
		const name = dayOf(job.started);
		byDay.set(name, [...byDay.get(name) ?? [], entryOf(job, view.vm).item]);
	}
	forgetOthers(jobs);
	setChildren($("jobs"), [...byDay].map(([name, items]) => dayBox(name, items)));
}

/** Returns the jobs of the list, newest first, with the job that a link names. @param {View} view */
function withLinked({ vm, jobs }) {
	const list = jobs ?? [];
	if (linked?.vm !== vm || list.some(({ id }) => id === linked?.id)) return { jobs: list, trouble: "" };
	const { job, trouble } = linked;
	const all = job ? [...list, job].toSorted((a, b) => Date.parse(b.started) - Date.parse(a.started)) : list;
	return { jobs: all, trouble };
}

/** Drops the drawn entries of jobs that are not in the list, such as another VM's, with the files that they offer. @param {Job[]} jobs */
function forgetOthers(jobs) {
	const ids = new Set(jobs.map(({ id }) => id));
	for (const [id, { item }] of entries) {
		if (ids.has(id)) continue;
		for (const link of item.querySelectorAll("a")) URL.revokeObjectURL(link.href);
		entries.delete(id);
	}
}

/** @param {Element} box  @param {Element[]} wanted */
function setChildren(box, wanted) {
	if (box.children.length !== wanted.length || wanted.some((child, n) => child !== box.children[n])) box.replaceChildren(...wanted);
}

/** @type {Map<string, HTMLElement>} */
const days = new Map();

/** @param {string} name  @param {Element[]} items */
function dayBox(name, items) {
	const box = days.get(name) ?? make("section", make("h2", name), make("ol"));
	days.set(name, box);
	setChildren(/** @type {Element} */ (box.lastElementChild), items);
	return box;
}

/** @param {string} started */
const hostTime = (started) => Date.parse(started) - getState().clockOff;

/** @param {string} started */
function dayOf(started) {
	const at = hostDate(hostTime(started));
	return at.toDateString() === hostDate(Date.now()).toDateString() ? "Today" : at.toLocaleDateString("en-GB", { weekday: "long", day: "numeric", month: "long" });
}

/** Returns the tone, the icon and the words of a job. @param {Job} job */
function summaryOf({ verb, outcome, stage, seconds, verdict }) {
	const label = labelOf(verb);
	if (!outcome) return { tone: "busy", mark: "working", label, words: "under way" };
	if (verb === "forensics" && outcome === "done") {
		const { words, tone } = verdict ? phraseOf(verdict.code) : { words: "evidence", tone: "unknown" };
		return { tone: tone === "good" ? "good" : "unknown", mark: "look", label: "Looked:", words: words.toLowerCase() };
	}
	if (outcome === "done") return { tone: "good", mark: "running", label, words: seconds ? `done in ${span(1e3 * seconds)}` : "done" };
	const where = stage && outcome === "failed" ? ` at ${stage}` : "";
	return { tone: outcome === "failed" ? "bad" : "unknown", mark: outcome === "failed" ? "hung" : "cross", label, words: `${outcome}${where}` };
}

/** @param {Job} job  @param {string} vm  @returns {Entry} */
function entryOf(job, vm) {
	const known = entries.get(job.id) ?? makeEntry(job, vm);
	entries.set(job.id, known);
	known.job = job;
	const { tone, mark, label, words } = summaryOf(job);
	known.item.dataset.tone = tone;
	setIcon(known.item, mark);
	const [bold, emphasis, small] = known.item.querySelectorAll("b > span, em, summary small");
	setText(bold, label);
	setText(emphasis, words);
	// the stage is in the second line, because a wrapped first line would move the jobs below it when the stage ends
	const now = job.stage && !job.outcome ? `, now at ${job.stage}` : "";
	setText(small, [`${clock(hostTime(job.started))} by ${job.by}${now}`, ...seenBy(job).slice(0, 1)].join(", "));
	return known;
}

/** Returns who has opened an alert's capture, and when. @param {Job} job */
const seenBy = ({ seen }) => (Array.isArray(seen) ? seen : []).map((each) => `seen by ${each?.by}, ${minute(hostTime(each?.at))}`);

/** @param {Job} job  @param {string} vm  @returns {Entry} */
function makeEntry(job, vm) {
	const title = make("summary", make("span", make("b", make("span"), " ", make("em")), make("small")));
	const body = make("div.job", make("p"), make("ul.lines"), make("figure.console"), make("dl.facts"), makePre(""), make("p"));
	const fold = /** @type {HTMLDetailsElement} */ (make("details.fold", title, body));
	const item = make("li", icon("look"), fold);
	item.id = `job ${job.id}`;
	const entry = { item, vm, job, read: null };
	fold.addEventListener("toggle", () => {
		if (fold.open) readEntry(entry, fold, body);
	});
	return entry;
}

/** Reads a job until it has ended. @param {Entry} entry  @param {HTMLDetailsElement} fold  @param {HTMLElement} body */
async function readEntry(entry, fold, body) {
	const { vm } = entry;
	const words = /** @type {HTMLElement} */ (body.firstElementChild);
	if (!words.firstChild && !entry.read) setText(words, "Asking the host…"); // once, because a job that runs has no sentence
	while (entry.item.isConnected && fold.open && !entry.read) {
		const job = await findJob(vm, entry.job.id);
		if (!job) return setText(words, "The host did not answer, or no longer has this job. Open the job again.");
		if (linked?.job?.id === job.id) linked.job = job; // the list may not have this job
		fillEntry(body, job, vm);
		entry.read = job.outcome;
		if (!entry.read) await sleep(1_000);
		else if (!entry.job.outcome) {
			refreshHistory(vm);
			const { holder, seen } = viewOf(vm);
			if ((holder ?? seen?.holder)?.job === job.id && vm === getState().vm) runVerb("status");
		}
	}
}

/** @param {HTMLElement} body  @param {Job} job  @param {string} vm */
function fillEntry(body, job, vm) {
	const [words, lines, figure, facts, output, save] = /** @type {HTMLElement[]} */ ([...body.children]);
	setText(words, sentence(job.verdict?.sentence));
	setList(lines, job.verdict?.evidence ?? []);
	if (job.screen_png && !figure.firstChild) {
		const at = clock(hostTime(job.started));
		figure.append(makePicture(job.screen_png, at), make("figcaption", `Console ${at}`));
	}
	const known = [
		["Began", hostDate(hostTime(job.started)).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" })],
		job.outcome ? ["Took", span(1e3 * (job.seconds ?? 0))] : ["Stage", STAGES[job.stage ?? ""]?.label ?? job.stage],
		["Outcome", job.outcome ?? "running"],
		["Why", job.why ?? ""],
		["Opinion", opinionWords(job, getState().clockOff)],
		["People", seenBy(job).join("; ")],
		["Id", job.id],
		["Console", job.screen_text?.length ? makePre(job.screen_text.join("\n")) : ""],
		["Last words", job.last_words?.length ? makePre(job.last_words.join("\n")) : ""],
	].filter(([, value]) => value);
	facts.replaceChildren(...known.map(([term, value]) => make("div", make("dt", term), make("dd", value))));
	fillText(output, job.output ?? "");
	if (!save.firstChild && job.outcome) save.append(...makeDownloads(job, vm));
}

/** Makes the links that save a job's report, for a ticket in the morning. @param {Job} job  @param {string} vm */
function makeDownloads(job, vm) {
	const { screen_png: png, ...rest } = job;
	const name = `${vm}-${job.verb}-${job.started.replaceAll(/[:.]/g, "")}`;
	const json = new Blob([JSON.stringify({ vm, ...rest, picture: png ? `${name}.png` : null }, null, "\t")], { type: "application/json" });
	const links = [makeDownload(json, `${name}.json`, "Download evidence")];
	return png ? [...links, makeDownload(pngBlob(png), `${name}.png`, "Download picture")] : links;
}

/** @param {Blob} blob  @param {string} name  @param {string} words */
function makeDownload(blob, name, words) {
	return Object.assign(make("a.button", words), { href: URL.createObjectURL(blob), download: name });
}

/** Opens a job of the shown VM. The list has only the newest jobs of one host, so the page asks the host for any other job.
 * @param {string} vm  @param {string} id */
export async function openJob(vm, id) {
	const mine = { vm, id, job: /** @type {Job|null} */ (null), trouble: "" };
	const isWanted = () => linked === mine && getState().vm === vm; // whether no other link has come, and the same VM is shown
	linked = mine;
	await refreshHistory(vm);
	if (!isWanted()) return;
	renderHistory(viewOf(vm));
	if (unfoldEntry(id)) return;
	const job = await findJob(vm, id);
	if (!isWanted()) return;
	if (job) mine.job = job;
	else mine.trouble = job === null ? `The host does not know the job ${id.slice(0, 63)}.` : "No answer from the host about this job.";
	renderHistory(viewOf(vm));
	unfoldEntry(id);
	if (mine.trouble) dispatch("nudged", { vm, words: mine.trouble });
}

/** Removes what was shown about a link's job. */
export function clearTrouble() {
	if (linked) linked.trouble = "";
}

/** Unfolds the drawn entry of a job. Returns whether the job has an entry. @param {string} id */
function unfoldEntry(id) {
	const fold = entries.get(id)?.item.querySelector("details");
	if (!fold) return false;
	fold.open = true;
	fold.querySelector("summary")?.focus();
	return true;
}

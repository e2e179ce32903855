// What verbs said and did: the output, the console's picture, the jobs of late.

import { ask, newJob, run } from "./run.js";
import { BUTTONS, changed, here, labelOf, me } from "./state.js";
import { $, age, clock, following, grow, list, make, pre, put, show, sleep, text } from "./words.js";

const never = new AbortController().signal;
let shownOutput, shownPicture;

export function heard(view, job, more, first) {
	if (job.quiet) return;
	const { output } = view;
	if (first) Object.assign(output, { title: `Output of ${labelOf(job.verb)}, ${clock(Date.now())}`, text: "" });
	output.text += more;
	if (view !== here()) return;
	if (first) {
		shownOutput = null;
		changed();
	} else {
		const follow = following($("output"));
		grow($("output"), more);
		follow();
	}
	if (job.verb !== "status") $("output-box").open = true;
}

const alt = (started) => `The console of ${me.vm} at ${clock(started)}`;

function picture({ png, started }) {
	const image = new Image();
	image.alt = alt(started);
	const bytes = Uint8Array.from(atob(png), (c) => c.charCodeAt(0));
	image.src = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
	return image;
}

const whole = async (view, id) => (await ask(view, newJob(view, "history", { job: id }), never)).job;

export async function showPicture(view, id) {
	const job = await whole(view, id);
	view.picture = job?.screen_png ? { png: job.screen_png, started: job.started } : null;
	changed();
}

export async function lately(view) {
	const answer = me.key && await ask(view, newJob(view, "history"), never);
	if (!me.key) return;
	view.jobs = answer.jobs ?? view.jobs ?? [];
	view.jobsTrouble = answer.jobs ? "" : `not known: ${answer.message ?? answer.verdict?.sentence}`;
	changed();
}

const items = new Map(); // kept, so that an open one stays open

export function renderLately({ output, picture: given, jobs, jobsTrouble }) {
	show({ "output-box": output.text });
	text({ "output-title": output.title });
	if (shownOutput !== output) {
		shownOutput = output;
		$("output").replaceChildren();
		grow($("output"), output.text);
	}
	show({ screen: given });
	if (shownPicture !== given) $("screen-picture").replaceChildren(...given?.png ? [picture(given)] : []);
	shownPicture = given;
	text({ "screen-words": given?.png ? alt(given.started) : "The console’s picture is on its way…" });
	show({ lately: me.key && jobs });
	if (!jobs) return;
	text({ "lately-word": jobsTrouble });
	const wanted = jobs.map(entry);
	const box = $("lately-jobs");
	if (wanted.length !== box.children.length || wanted.some((item, n) => box.children[n] !== item)) box.replaceChildren(...wanted);
}

function entry(job) {
	const name = `${me.vm} ${job.id}`;
	if (!items.has(name)) {
		const title = make("summary", "", "", make("span"), " ", make("small"));
		const made = make("details", "", "", title, make("div"));
		made.addEventListener("toggle", () => made.open && fill(made));
		items.set(name, made);
	}
	const item = items.get(name);
	item.job = job;
	put(item.querySelector("span"), `${BUTTONS[job.verb] ? labelOf(job.verb) : job.verb}: ${job.outcome ?? "running"}`);
	put(item.querySelector("small"), `${job.by}, ${age(Date.parse(job.started))} ago`);
	return item;
}

// By reading alone; each second while the job runs.
async function fill(item) {
	const view = here();
	const box = item.lastChild;
	while (item.open && box.dataset.outcome !== String(item.job.outcome)) {
		if (!box.firstChild) put(box, "Asking the host…");
		const job = await whole(view, item.job.id);
		if (!job) return put(box, "No answer, or the host no longer knows it. Open it again to ask again.");
		const lines = make("ul", "", "lines");
		list(lines, job.verdict?.evidence ?? []);
		box.replaceChildren(
			make("p", `Began ${job.started}, took ${job.seconds} s, ${job.outcome ?? `now at: ${job.stage}`}. Id: ${job.id}`, "quiet"),
			make("p", job.why && `Why: ${job.why}`),
			make("p", job.verdict?.sentence),
			lines,
			...job.screen_png ? [picture({ png: job.screen_png, started: job.started })] : [],
			pre(job.output || "No output was kept."),
		);
		const ended = job.outcome && !item.job.outcome;
		if (job.outcome) box.dataset.outcome = job.outcome;
		item.job = job;
		if (ended) lately(view);
		if (ended && (view.holder ?? view.seen?.holder)?.job === job.id) run("status");
		if (!job.outcome) await sleep(1_000, never);
	}
}

export async function watch() {
	const view = here();
	await lately(view);
	const item = items.get(`${me.vm} ${(view.holder ?? view.seen?.holder)?.job}`);
	if (!item) return;
	item.open = true;
	item.firstChild.focus();
}

// Saves the report of the night as one file with pictures, which any browser shows and prints. This module loads at the first press.

import { $, make, setText } from "../base/dom.js";
import { newId, post } from "../base/send.js";

const SINCE = "12h";
let asking = false;

export async function saveReport() {
	if (asking) return;
	asking = true;
	setText($("report-trouble"), "Asking the hosts…");
	const answer = await post("report", newId(), JSON.stringify({ form: "html", since: SINCE }), new AbortController().signal);
	asking = false;
	setText($("report-trouble"), answer?.text ? "" : `There is no report: ${answer?.error?.message ?? "no answer came back"}.`);
	if (!answer?.text) return;
	const href = URL.createObjectURL(new Blob([answer.text], { type: "text/html" }));
	Object.assign(make("a"), { href, download: `breakglass-${new Date().toISOString().slice(0, 10)}.html` }).click();
	setTimeout(() => URL.revokeObjectURL(href), 60_000); // the browser reads the file meanwhile
}

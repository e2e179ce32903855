// The page's copy on this device, which sw.js stores and renews.

/** Has the browser store the page. @param {() => void} onNewPage  called when the device has a newer one, which the next opening shows */
export function registerWorker(onNewPage) {
	const workers = navigator.serviceWorker;
	if (!workers) return; // over plain http
	const policy = window.trustedTypes?.createPolicy("breakglass", { createScriptURL: () => "sw.js" });
	workers.register(policy?.createScriptURL("") ?? "sw.js").catch(() => {});
	workers.addEventListener("message", ({ data }) => {
		if (data.newPage) onNewPage();
	});
	document.addEventListener("visibilitychange", () => {
		if (!document.hidden) workers.controller?.postMessage("renew");
	});
}

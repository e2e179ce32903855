// Tells a person if the page can't begin, because the browser is too old or a file did not load. It loads such a file once more.
// This script is not a module and has no new syntax, so any browser runs it.

(function () {
	var RELOADED = "breakglass reloaded";

	/** @param {string} id  @param {string} words */
	function say(id, words) {
		var place = document.getElementById(id);
		if (place) place.textContent = words;
	}

	/** @param {string} headline  @param {string} second  @param {string} words */
	function sayTrouble(headline, second, words) {
		say("headline", headline);
		say("second", second);
		say("too-old", words);
		document.body.setAttribute("data-scene", "opening"); // without the field for a key
		var byHand = document.getElementById("by-hand");
		if (byHand) byHand.setAttribute("open", "");
	}

	var isTooOld = false;
	function sayTooOld() {
		isTooOld = true;
		sayTrouble("Browser too old", "The page may not work",
			"This browser is too old for this page. It needs Chrome or Edge 110, Firefox 119, Safari 16 or later. " +
			"Use another browser, or the commands under “By hand” and in the runbook.");
	}

	// For each browser version in README.md, in the same order, a feature that no earlier version has.
	var hasAll = "noModule" in document.createElement("script") && "toSorted" in [] && "ariaDisabled" in Element.prototype &&
		"AbortSignal" in window && "timeout" in AbortSignal && "TextDecoderStream" in window && "HTMLDialogElement" in window &&
		CSS.supports("width: 1cqi");
	if (!hasAll) sayTooOld();
	// A module with syntax that this browser can't read raises this error before the page has begun.
	addEventListener("error", function (event) {
		if (event.error instanceof SyntaxError && !document.body.hasAttribute("data-begun")) sayTooOld();
	});

	/** Loads the page once more. After a second failure, it tells the person. */
	function loadAgain() {
		var again = false;
		try {
			var tried = sessionStorage.getItem(RELOADED);
			sessionStorage.setItem(RELOADED, "1");
			again = !tried;
		} catch (error) { /* without storage it could not know that it has tried already */ }
		if (again) location.reload();
		else sayTrouble("Not loaded", "A file did not arrive", "A part of this page did not load. Reload the page, or use the " +
			"commands in the runbook.");
	}

	// By now every file has loaded or failed. After a failed module, the page is loaded again. A failed style sheet is loaded alone.
	addEventListener("load", function () {
		var style = document.querySelector("link[rel=stylesheet]");
		var hasStyle = getComputedStyle(document.documentElement).getPropertyValue("--touch"); // a style sheet that did not load is empty
		if (style && !hasStyle) style.replaceWith(style.cloneNode());
		if (!document.body.hasAttribute("data-begun") && !isTooOld) loadAgain();
	});
	addEventListener("whole", function () { // app.js sends this event once every module has loaded
		try {
			sessionStorage.removeItem(RELOADED);
		} catch (error) { /* nothing is there */ }
	});
})();

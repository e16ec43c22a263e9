"use strict";
// Hands what the gateway asks for to the browser's authenticator, and its answer back. Everything else on the page
// works without scripts.
(() => {
  const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
  const text = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  const trouble = document.getElementById("trouble");
  const fail = (error) => {
    const name = error && error.name;
    const said = (error && error.message) || "The browser could not do this. Try again, or use another factor.";
    trouble.textContent = name !== "NotAllowedError" ? said
      : /certificate/i.test(said) ? "The browser keeps passkeys away from this page, because it does not trust the gateway's certificate. Trust that, or use another factor."
      : "The browser was not given what it asked for, or it took too long. Try again, or use another factor.";
    trouble.hidden = false;
  };
  const list = (credentials) => (credentials || []).map((c) => ({ ...c, id: bytes(c.id) }));

  const passkey = document.getElementById("passkey");
  if (passkey) {
    const form = document.getElementById("approve");
    passkey.addEventListener("click", async () => {
      try {
        trouble.hidden = true;
        for (const name of ["words", "address"]) {
          const field = form.elements.namedItem(name);
          if (field && !field.reportValidity()) return;
        }
        const answer = await fetch("/login/u2f/assertion", {
          method: "POST",
          headers: { "Content-Type": "application/x-www-form-urlencoded" },
          body: new URLSearchParams({ csrf: form.elements.namedItem("csrf").value, id: form.elements.namedItem("id").value }),
        });
        const asked = await answer.json();
        if (!answer.ok) throw new Error(asked.error);
        const key = asked.public_key;
        const got = await navigator.credentials.get({
          publicKey: { ...key, challenge: bytes(key.challenge), allowCredentials: list(key.allowCredentials) },
        });
        form.elements.namedItem("assertion").value = asked.id;
        form.elements.namedItem("credential").value = JSON.stringify({
          id: got.id, rawId: text(got.rawId), type: got.type, authenticatorAttachment: got.authenticatorAttachment || undefined,
          clientExtensionResults: got.getClientExtensionResults(),
          response: {
            authenticatorData: text(got.response.authenticatorData), clientDataJSON: text(got.response.clientDataJSON),
            signature: text(got.response.signature), userHandle: got.response.userHandle ? text(got.response.userHandle) : undefined,
          },
        });
        form.submit();
      } catch (error) {
        fail(error);
      }
    });
  }

  const create = document.getElementById("create");
  if (create) {
    const form = document.getElementById("added");
    create.addEventListener("click", async () => {
      try {
        trouble.hidden = true;
        const key = JSON.parse(create.dataset.options);
        const made = await navigator.credentials.create({
          publicKey: {
            ...key, challenge: bytes(key.challenge), user: { ...key.user, id: bytes(key.user.id) },
            excludeCredentials: list(key.excludeCredentials),
          },
        });
        form.elements.namedItem("credential").value = JSON.stringify({
          id: made.id, rawId: text(made.rawId), type: made.type, authenticatorAttachment: made.authenticatorAttachment || undefined,
          clientExtensionResults: made.getClientExtensionResults(),
          response: {
            attestationObject: text(made.response.attestationObject), clientDataJSON: text(made.response.clientDataJSON),
            transports: made.response.getTransports ? made.response.getTransports() : undefined,
          },
        });
        form.submit();
      } catch (error) {
        fail(error);
      }
    });
  }
})();

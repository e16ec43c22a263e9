// Package notify tells people what concerns them, by mail and in Slack.
//
//	ledger ─▶ follow ─▶ rgw.notices (the outbox) ─▶ deliver ─▶ Postmark, Slack
//	                        └▶ gather (digests)        └▶ dead, until somebody retries
//
// What is told is decided from the ledger alone: from events that have their place there, in the order of leaves, each
// once. The notices of some leaves and the cursor behind them are one transaction, so that no crash loses or doubles
// any. Several processes may follow and deliver at once: whoever moves the cursor first has told, and a notice is
// claimed by one.
//
// Delivery is at least once. No transaction is open while a receiver is spoken to, since that would hold up the
// sequencer, whose order is found from the oldest transaction: a claim is a lease. A process that dies leaves its
// leases, and whoever takes one over asks the receiver first whether it has the notice, where it can be asked.
// Every notice carries its own id as the key by which a receiver, or the mail program behind it, knows a repetition.
//
// What is trusted: the ledger for what happened; nothing in an event for how it is shown, since names and user agents
// are anybody's: text is escaped by html/template and by Slack's rules, headers of mails are cut to one line. Events
// hold no secrets, and no other data goes into a notice.
package notify

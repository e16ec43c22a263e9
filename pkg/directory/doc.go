// Package directory keeps who there is and what each may do: people, roles, bindings, tokens and settings.
//
// Every change is one method of [Writer], and does the change and its audit events in one transaction: there
// is no way through this package to change state without an event, nor to leave an event for a change that did
// not happen. A change that is refused leaves an event too, in a transaction of its own. [Reader] has the
// questions; its transactions are read-only, so that no reading path can write.
//
// Changes are serialised by one advisory lock. They are rare, and what must hold across rows (somebody can
// always administer; nobody gives what they do not have) is then checked against what is true, not against
// what was true a moment ago. Requests through the proxy never wait for that lock.
//
// Whether the actor may ask for a change at all is decided before, by access.Decide. What is enforced here
// holds for everybody, the command line included, but for one rule: what an actor gives is measured against
// the actor's own rights only where the actor is a person or a token. Whoever runs the command line holds the
// database's password and the audit key already.
package directory

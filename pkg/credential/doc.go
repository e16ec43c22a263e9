// Package credential knows tokens and whom they stand for: the token's format, the look-up of a
// principal with everything that a decision about it needs, and a cache of principals that the
// database's announcements keep honest.
//
// Freshness is the point of the cache. Each change to a person, role, binding or token is announced by
// a trigger on the channel rgw_access, whichever way it was made; the cache drops what the change
// concerns and ends the open sockets of those principals. It is trusted only while the connection
// that hears the announcements is proven alive; see Cache.
package credential

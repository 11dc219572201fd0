// Package registration tries the registrars as a whole: real engines, a real store and the built
// programs, with each of them killed or cut off while containers come and go.
//
// It knows programs and networks from outside. What a test here compares are the two truths that a
// user sees: what the engine says runs, and what the store says is registered.
package registration

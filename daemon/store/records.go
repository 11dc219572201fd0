package store

import "github.com/tidwall/btree"

// recordTree holds all records in the order of their keys, with the methods of the other tables. It
// holds pointers only, the key is in the record: beside a key of its own for each, which stands in
// nodes that are half full when keys came in order, that saves some 30 bytes a record.
type recordTree struct{ tree *btree.BTreeG[*record] }

func newRecordTree() *recordTree {
	return &recordTree{newTree(func(a, b *record) bool { return a.key < b.key })}
}

func (r *recordTree) Get(key string) (*record, bool)    { return r.tree.Get(&record{key: key}) }
func (r *recordTree) Set(rec *record)                   { r.tree.Set(rec) }
func (r *recordTree) Delete(key string)                 { r.tree.Delete(&record{key: key}) }
func (r *recordTree) Len() int                          { return r.tree.Len() }
func (r *recordTree) Scan(yield func(rec *record) bool) { r.tree.Scan(yield) }
func (r *recordTree) Ascend(from string, yield func(*record) bool) {
	r.tree.Ascend(&record{key: from}, yield)
}

// Load is Set for a key that is probably behind all others. It reports whether there was one before.
func (r *recordTree) Load(rec *record) (replaced bool) {
	_, replaced = r.tree.Load(rec)
	return replaced
}

// Copy returns a copy, which costs nothing until either changes.
func (r *recordTree) Copy() *recordTree { return &recordTree{r.tree.Copy()} }

// Iter returns a cursor that stands nowhere yet.
func (r *recordTree) Iter() recordCursor { return recordCursor{r.tree.Iter()} }

type recordCursor struct{ btree.IterG[*record] }

// Seek moves to the first record at or behind key and reports whether there is one.
func (c *recordCursor) Seek(key string) bool { return c.IterG.Seek(&record{key: key}) }

func (c *recordCursor) Key() string    { return c.Item().key }
func (c *recordCursor) Value() *record { return c.Item() }

"""Turns INPUTs into Scenes and Scenes into Pixels, one kind of input (a Source) per file; the only
room that imports rasterio.

It does not know the network, how scenes are divided into units, or what is done with the pixels.

    input_file.py     InputFile: a file that an INPUT names, before its header is read
    source.py         the Source protocol, SOURCES by name, and finding and describing by them
    raster.py         image files as a source; checks that a file is still the version planned
    image_files.py    the image files in a folder or glob: suffixes, links, hidden files
    other_formats.py  rasters that a folder is not searched for; formats without a driver
    sidecars.py       the names of side-cars: masks, .aux.xml, .aux, world files
    identity.py       which bytes a file and its side-cars are: versions (ETag, size and time)
    aux_xml.py        what an .aux.xml decides, and that statistics are not part of it
    outage.py         whether an INPUT is gone as a whole: no input's fault
    header_pool.py    many headers at once, in processes that may crash
    header.py         the header of an image file as a Scene: size, time of acquisition, strips
    band_files.py     scenes of one file per band, and how to stack them
    encoding.py       how stored values become the network's: what the header says of it
    bands.py          --bands: which band feeds which channel; the type of their values
    alpha.py          whether a band that GDAL calls alpha is one, judged by a sample
    color_table.py    color tables: which band has one, and its colors
    scaling.py        a file's own scale and offset, and --scale file
    place.py          CRS and transform, or why there are none
    georeference.py   the transform in a file or beside it
    world_file.py     the transform in a world file
    mask_file.py      whether the mask beside an image can be what it claims
    contents.py       what else a file holds: pages, further images, an orientation
    bitmap.py         bitmaps that GDAL reads otherwise than they are
    jpeg_header.py    harmless faults that cameras leave in JPEG headers
    storage_tiles.py  what is decoded at once
    plausibility.py   whether a file can hold what its header claims
    pixels.py         rectangles of pixels, and the valid mask (nodata, alpha, NaN)
    decoding.py       stored values as the scene says: color table, bits, negative, scale
    dataset.py        opens a file with rasterio and tells a bad file from a bad store
    damage.py         which of GDAL's warnings say that pixels may be wrong
    opener.py         files for GDAL, range by range: remote ones, and local ones that are mended
    gdal.py           GDAL's options, cache and warnings
    brightness.py     whether scaled values are as bright as the network expects
"""

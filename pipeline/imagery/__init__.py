"""Turns INPUTs into Scenes and Scenes into Pixels, one kind of input (a Source) per file; the only
room that imports rasterio.

It does not know the network, how scenes are divided into units, or what is done with the pixels.

    input_file.py     InputFile: a file that an INPUT names, before its header is read
    source.py         the Source protocol, SOURCES by name, and finding and describing by them
    raster.py         image files as a source; checks that a file is still the version planned
    image_files.py    the image files in a folder or glob: suffixes, links, hidden files
    other_formats.py  rasters that a folder is not searched for; formats without a driver
    sidecars.py       the names of side-cars: masks, .aux.xml, world files
    identity.py       which bytes a file and its side-cars are: versions (ETag, size and time)
    aux_xml.py        what an .aux.xml decides, and that statistics are not part of it
    outage.py         whether an INPUT is gone as a whole: no input's fault
    header_pool.py    many headers at once, in processes that may crash
    header.py         the header of an image file as a Scene: size, time of acquisition, strips
    bands.py          --bands: which band feeds which channel; the type of their values
    georeference.py   CRS and transform
    world_file.py     the transform in a world file
    mask_file.py      whether the mask beside an image can be what it claims
    plausibility.py   whether a file can hold what its header claims
    pixels.py         rectangles of pixels, and the valid mask (nodata, alpha, NaN)
    dataset.py        opens a file with rasterio and tells a bad file from a bad store
    opener.py         remote files for GDAL, by range requests
    gdal.py           GDAL's options, cache and warnings
    brightness.py     whether scaled values are as bright as the network expects
"""
